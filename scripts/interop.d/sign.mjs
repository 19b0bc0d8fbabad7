// Signs webhook requests with the Node.js SDKs that `scripts/interop` installed beside this file,
// and prints each as one line of JSON. sign.py does the same in Python. The arguments name the
// packages.
//
// A case returns the provider's request: `secret` (the receiver's secret), `headers`, `body`,
// `url`, and which function of the SDK signed it (`signed`) or, where the SDK can't sign, confirmed
// the signature that node:crypto made by its documentation (`verified`). `covered` is a
// text of the body or the URL that the signature covers: a change to it must be refused.
//
// An SDK with both functions also checks its own signature. The program reports a case that throws,
// and runs the others.

import { strict as assert } from "node:assert";
import { createHash, createHmac, generateKeyPairSync, sign as signWithKey } from "node:crypto";

const URL_OF_HOOK = "https://hooks.example.org/webhooks/interop";
const BODY = JSON.stringify({ id: "evt_1", type: "interop.check", who: "café ☕", amount: 1250 });
const SECRET = "only-this-check-uses-this-secret";
const WHSEC = `whsec_${Buffer.from(SECRET).toString("base64")}`;
const HEX_KEY = Buffer.from(SECRET).toString("hex");
const FORM = "application/x-www-form-urlencoded; charset=utf-8";

const hmac = (secret, text, encoding = "hex", digest = "sha256") =>
  createHmac(digest, secret).update(text).digest(encoding);
const sha256 = (text, encoding) => createHash("sha256").update(text).digest(encoding);
const seconds = () => Math.floor(Date.now() / 1000);

/** A JSON web token with HS256 (RFC 7515, RFC 7518). */
function jwt(claims, secret) {
  const part = (object) => Buffer.from(JSON.stringify(object)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${hmac(secret, signed, "base64url")}`;
}

/** The headers of Standard Webhooks, signed with `key`; Svix says `svix-` where others say `webhook-`. */
function standardHeaders(key, prefix = "webhook") {
  const at = String(seconds());
  const signature = hmac(key, `msg_1.${at}.${BODY}`, "base64");
  return { [`${prefix}-id`]: "msg_1", [`${prefix}-timestamp`]: at, [`${prefix}-signature`]: `v1,${signature}` };
}

// ---------------------------------------------------------------- the SDKs that sign

const cases = [];
/** A case: the npm package, the provider as Hookward calls it, and how to make a request. */
const add = (sdk, provider, make) => cases.push({ sdk, provider, make });

add("stripe", "stripe", async () => {
  const { default: Stripe } = await import("stripe");
  const { webhooks } = new Stripe("sk_test_unused");
  const header = webhooks.generateTestHeaderString({ payload: BODY, secret: WHSEC });
  webhooks.constructEvent(BODY, header, WHSEC);
  return { signed: "webhooks.generateTestHeaderString", secret: WHSEC, headers: { "Stripe-Signature": header } };
});

add("standardwebhooks", "standard_webhooks", async () => {
  const { Webhook } = await import("standardwebhooks");
  const webhook = new Webhook(WHSEC);
  const at = new Date();
  const headers = {
    "webhook-id": "msg_1",
    "webhook-timestamp": String(Math.floor(at / 1000)),
    "webhook-signature": webhook.sign("msg_1", at, BODY),
  };
  webhook.verify(BODY, headers);
  return { signed: "Webhook.sign", secret: WHSEC, headers };
});

add("svix", "svix", async () => {
  const { Webhook } = await import("svix");
  const webhook = new Webhook(WHSEC);
  const at = new Date();
  const headers = {
    "svix-id": "msg_1",
    "svix-timestamp": String(Math.floor(at / 1000)),
    "svix-signature": webhook.sign("msg_1", at, BODY),
  };
  webhook.verify(BODY, headers);
  return { signed: "Webhook.sign", secret: WHSEC, headers };
});

add("@octokit/webhooks-methods", "github", async () => {
  const { sign, verify } = await import("@octokit/webhooks-methods");
  const signature = await sign(SECRET, BODY);
  assert(await verify(SECRET, BODY, signature));
  return {
    signed: "sign", secret: SECRET,
    headers: { "X-GitHub-Event": "push", "X-GitHub-Delivery": "1", "X-Hub-Signature-256": signature },
  };
});

add("twilio", "twilio", async () => {
  const { default: twilio } = await import("twilio");
  const { getExpectedTwilioSignature } = await import("twilio/lib/webhooks/webhooks.js");
  const url = `${URL_OF_HOOK}?campaign=spring%20sale`;
  const fields = { From: "+15005550006", To: "+15005550001", Body: "interop & café ☕", Note: "" };
  const signature = getExpectedTwilioSignature(SECRET, url, fields);
  assert(twilio.validateRequest(SECRET, signature, url, fields));
  return {
    signed: "getExpectedTwilioSignature", secret: SECRET, url, type: FORM,
    headers: { "X-Twilio-Signature": signature }, body: new URLSearchParams(fields).toString(),
  };
});

add("twilio", "twilio", async () => {
  const { default: twilio } = await import("twilio");
  const { getExpectedBodyHash, getExpectedTwilioSignature } = await import("twilio/lib/webhooks/webhooks.js");
  const url = `${URL_OF_HOOK}?bodySHA256=${getExpectedBodyHash(BODY)}`;
  const signature = getExpectedTwilioSignature(SECRET, url, {});
  assert(twilio.validateRequestWithBody(SECRET, signature, url, BODY));
  return {
    variant: "JSON", signed: "getExpectedTwilioSignature", secret: SECRET, url,
    headers: { "X-Twilio-Signature": signature },
  };
});

add("@shopify/shopify-api", "shopify", async () => {
  await import("@shopify/shopify-api/adapters/node");
  const { createSHA256HMAC } = await import("@shopify/shopify-api/runtime");
  const { shopifyApi, ApiVersion } = await import("@shopify/shopify-api");
  const signature = await createSHA256HMAC(SECRET, BODY);
  const headers = {
    "X-Shopify-Topic": "orders/create", "X-Shopify-API-Version": "2025-01", "X-Shopify-Webhook-Id": "1",
    "X-Shopify-Shop-Domain": "interop.myshopify.com", "X-Shopify-Hmac-SHA256": signature,
  };
  const shopify = shopifyApi({
    apiKey: "unused", apiSecretKey: SECRET, hostName: "hooks.example.org", isEmbeddedApp: false,
    apiVersion: Object.values(ApiVersion)[0], logger: { log: () => {} },
  });
  const rawRequest = { method: "POST", url: "/webhooks/interop", headers };
  const { valid } = await shopify.webhooks.validate({ rawBody: BODY, rawRequest, rawResponse: {} });
  assert(valid);
  return { signed: "createSHA256HMAC", secret: SECRET, headers };
});

add("braintree", "braintree", async () => {
  const { default: braintree } = await import("braintree");
  const keys = { public_key: "interop_public_key", private_key: SECRET };
  const gateway = new braintree.BraintreeGateway({
    environment: braintree.Environment.Sandbox, merchantId: "unused",
    publicKey: keys.public_key, privateKey: keys.private_key,
  });
  const sample = gateway.webhookTesting.sampleNotification(braintree.WebhookNotification.Kind.Check, "interop");
  await gateway.webhookNotification.parse(sample.bt_signature, sample.bt_payload);
  return {
    signed: "webhookTesting.sampleNotification", secret: keys, headers: {}, type: FORM,
    body: new URLSearchParams(sample).toString(), covered: sample.bt_payload.match(/[A-Za-z0-9]{8}/)[0],
  };
});

add("box-node-sdk", "box", async () => {
  const { computeWebhookSignature } = await import("box-node-sdk/lib/internal/utils");
  const { WebhooksManager } = await import("box-node-sdk/lib/managers/webhooks");
  const keys = { primary: SECRET, secondary: `${SECRET}-2` };
  const headers = {
    "box-delivery-id": "1", "box-delivery-timestamp": new Date(seconds() * 1000).toISOString().replace(".000Z", "Z"),
    "box-signature-version": "1", "box-signature-algorithm": "HmacSHA256",
  };
  headers["box-signature-primary"] = await computeWebhookSignature(BODY, headers, keys.primary);
  headers["box-signature-secondary"] = await computeWebhookSignature(BODY, headers, keys.secondary);
  assert(await WebhooksManager.validateMessage(BODY, headers, keys.primary, { secondaryKey: keys.secondary }));
  return { signed: "computeWebhookSignature", secret: keys, headers };
});

for (const version of ["v1", "v2", "v3"]) {
  add("@hubspot/api-client", `hubspot_${version}`, async () => {
    const { Signature } = await import("@hubspot/api-client");
    // HubSpot signs the URL with some escapes decoded (":" is one of them) and sends it encoded.
    const url = `${URL_OF_HOOK}?object=contact%3A1`;
    const timestamp = Date.now();
    const options = { clientSecret: SECRET, requestBody: BODY, timestamp };
    options.url = version === "v3" ? url.replace("%3A", ":") : url;
    options.signature = Signature.getSignature("POST", version, options);
    assert(Signature.isValid({ ...options, method: "POST", signatureVersion: version }));
    const headers = version === "v3"
      ? { "X-HubSpot-Request-Timestamp": String(timestamp), "X-HubSpot-Signature-v3": options.signature }
      : { "X-HubSpot-Signature-Version": version, "X-HubSpot-Signature": options.signature };
    return { signed: "Signature.getSignature", secret: SECRET, url, headers };
  });
}

add("@contentful/node-apps-toolkit", "contentful", async () => {
  const { signRequest, verifyRequest } = await import("@contentful/node-apps-toolkit");
  const secret = HEX_KEY;
  const url = `${URL_OF_HOOK}?space=my%20space`;
  const headers = { "Content-Type": "application/json", "X-Contentful-Topic": "ContentManagement.Entry.save" };
  const { pathname, search } = new URL(url);
  const request = { method: "POST", path: pathname + search, headers, body: BODY };
  const signed = signRequest(secret, request);
  assert(verifyRequest(secret, { ...request, headers: { ...headers, ...signed } }));
  return { signed: "signRequest", secret, url, headers: { ...headers, ...signed } };
});

add("@hygraph/utils", "hygraph", async () => {
  const { default: hygraph } = await import("@hygraph/utils");
  const signature = hygraph.generateWebhookSignature({ rawPayload: BODY, secret: SECRET });
  assert(hygraph.verifyWebhookSignature({ rawPayload: BODY, signature, secret: SECRET }));
  return { signed: "generateWebhookSignature", secret: SECRET, headers: { "gcms-signature": signature } };
});

add("@adyen/api-library", "adyen_payments", async () => {
  const { hmacValidator: HmacValidator } = (await import("@adyen/api-library")).default;
  const validator = new HmacValidator();
  // Every item of a batch has its own signature.
  const notificationItems = ["interop-1", "interop-2"].map((merchantReference) => {
    const item = {
      pspReference: "7914073381342284", merchantAccountCode: "HookwardShop", merchantReference,
      originalReference: "", amount: { value: 1130, currency: "EUR" }, eventCode: "AUTHORISATION",
      success: "true", eventDate: "2024-01-01T00:00:00+01:00", paymentMethod: "visa",
    };
    item.additionalData = { hmacSignature: validator.calculateHmac(item, HEX_KEY) };
    assert(validator.validateHMAC(item, HEX_KEY));
    return { NotificationRequestItem: item };
  });
  const body = JSON.stringify({ live: "false", notificationItems });
  return { signed: "hmacValidator.calculateHmac", secret: HEX_KEY, headers: {}, body, covered: "interop-2" };
});

add("@adyen/api-library", "adyen_platform", async () => {
  const { hmacValidator: HmacValidator } = (await import("@adyen/api-library")).default;
  const validator = new HmacValidator();
  const signature = validator.calculateHmac(BODY, HEX_KEY);
  assert(validator.validateHMACSignature(HEX_KEY, signature, BODY));
  return { signed: "hmacValidator.calculateHmac", secret: HEX_KEY, headers: { HmacSignature: signature } };
});

add("livekit-server-sdk", "livekit", async () => {
  const { AccessToken, WebhookReceiver } = await import("livekit-server-sdk");
  const body = JSON.stringify({ event: "room_started", id: "interop", room: { name: "café ☕" } });
  const token = new AccessToken("interop_key", SECRET);
  token.sha256 = sha256(body, "base64");
  const header = await token.toJwt();
  await new WebhookReceiver("interop_key", SECRET).receive(body, header);
  return {
    signed: "AccessToken.toJwt", secret: SECRET, type: "application/webhook+json", body,
    headers: { Authorization: header },
  };
});

add("cloudinary", "cloudinary", async () => {
  const { v2: cloudinary } = (await import("cloudinary")).default;
  cloudinary.config({ cloud_name: "interop", api_key: "unused", api_secret: SECRET });
  const timestamp = seconds();
  const signature = cloudinary.utils.webhook_signature(BODY, timestamp, { api_secret: SECRET });
  assert(cloudinary.utils.verifyNotificationSignature(BODY, timestamp, signature));
  const headers = { "X-Cld-Timestamp": String(timestamp), "X-Cld-Signature": signature };
  return { signed: "utils.webhook_signature", secret: SECRET, headers };
});

add("@workos-inc/node", "workos", async () => {
  const { WorkOS } = await import("@workos-inc/node");
  const { webhooks } = new WorkOS("sk_unused");
  const payload = JSON.parse(BODY);
  const timestamp = Date.now();
  const header = `t=${timestamp}, v1=${await webhooks.computeSignature(timestamp, payload, SECRET)}`;
  assert(await webhooks.verifyHeader({ payload, sigHeader: header, secret: SECRET }));
  return { signed: "webhooks.computeSignature", secret: SECRET, headers: { "WorkOS-Signature": header } };
});

add("@sanity/webhook", "sanity", async () => {
  const { encodeSignatureHeader, isValidSignature } = await import("@sanity/webhook");
  const header = await encodeSignatureHeader(BODY, Date.now(), SECRET);
  assert(await isValidSignature(BODY, header, SECRET));
  return { signed: "encodeSignatureHeader", secret: SECRET, headers: { "sanity-webhook-signature": header } };
});

add("@kontent-ai/webhook-helper", "kontent_ai", async () => {
  const { signatureHelper } = (await import("@kontent-ai/webhook-helper")).default;
  const signature = signatureHelper.getHashFromString(BODY, SECRET);
  assert(signatureHelper.isValidSignatureFromString(BODY, SECRET, signature));
  const headers = { "X-Kontent-ai-Signature": signature };
  return { signed: "signatureHelper.getHashFromString", secret: SECRET, headers };
});

add("modern-treasury", "modern_treasury", async () => {
  const { default: ModernTreasury } = await import("modern-treasury");
  const { webhooks } = new ModernTreasury({ apiKey: "unused", organizationID: "unused", webhookKey: SECRET });
  const signature = webhooks.getSignature(BODY);
  assert(webhooks.validateSignature(BODY, signature));
  return { signed: "webhooks.getSignature", secret: SECRET, headers: { "X-Signature": signature } };
});

add("retell-sdk", "retell", async () => {
  const { sign, verify } = await import("retell-sdk");
  const signature = await sign(BODY, SECRET);
  assert(await verify(BODY, SECRET, signature));
  return { signed: "sign", secret: SECRET, headers: { "x-retell-signature": signature } };
});

// ---------------------------------------------------------------- the SDKs that only verify

add("@sendgrid/eventwebhook", "sendgrid", async () => {
  const { EventWebhook } = (await import("@sendgrid/eventwebhook")).default;
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = publicKey.export({ format: "der", type: "spki" }).toString("base64");
  const body = `[${BODY}]\r\n`;
  const timestamp = String(seconds());
  const signature = signWithKey("sha256", Buffer.from(timestamp + body), privateKey).toString("base64");
  const webhook = new EventWebhook();
  assert(webhook.verifySignature(webhook.convertPublicKeyToECDSA(key), body, signature, timestamp));
  return {
    verified: "EventWebhook.verifySignature", secret: key, body,
    headers: {
      "X-Twilio-Email-Event-Webhook-Timestamp": timestamp, "X-Twilio-Email-Event-Webhook-Signature": signature,
    },
  };
});

add("discord-interactions", "discord", async () => {
  const { verifyKey } = (await import("discord-interactions")).default;
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const key = publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("hex");
  const timestamp = String(seconds());
  const signature = signWithKey(null, Buffer.from(timestamp + BODY), privateKey).toString("hex");
  assert(await verifyKey(BODY, signature, timestamp, key));
  const headers = { "X-Signature-Timestamp": timestamp, "X-Signature-Ed25519": signature };
  return { verified: "verifyKey", secret: key, headers };
});

add("telnyx", "telnyx", async () => {
  const { default: Telnyx } = await import("telnyx");
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const key = publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("base64");
  const timestamp = String(seconds());
  const signature = signWithKey(null, Buffer.from(`${timestamp}|${BODY}`), privateKey).toString("base64");
  const headers = { "Telnyx-Timestamp": timestamp, "Telnyx-Signature-Ed25519": signature };
  await new Telnyx({ apiKey: "unused", publicKey: key }).webhooks.unwrap(BODY, { headers });
  return { verified: "webhooks.unwrap", secret: key, headers };
});

add("@paddle/paddle-node-sdk", "paddle", async () => {
  const { Paddle } = await import("@paddle/paddle-node-sdk");
  const timestamp = seconds();
  const header = `ts=${timestamp};h1=${hmac(SECRET, `${timestamp}:${BODY}`)}`;
  assert(await new Paddle("unused").webhooks.isSignatureValid(BODY, SECRET, header));
  return { verified: "webhooks.isSignatureValid", secret: SECRET, headers: { "Paddle-Signature": header } };
});

add("square", "square", async () => {
  const { WebhooksHelper } = (await import("square")).default;
  const signature = hmac(SECRET, URL_OF_HOOK + BODY, "base64");
  assert(await WebhooksHelper.verifySignature({
    requestBody: BODY, signatureHeader: signature, signatureKey: SECRET, notificationUrl: URL_OF_HOOK,
  }));
  const headers = { "x-square-hmacsha256-signature": signature };
  return { verified: "WebhooksHelper.verifySignature", secret: SECRET, headers };
});

add("razorpay", "razorpay", async () => {
  const { default: Razorpay } = await import("razorpay");
  const signature = hmac(SECRET, BODY);
  assert(Razorpay.validateWebhookSignature(BODY, signature, SECRET));
  return { verified: "validateWebhookSignature", secret: SECRET, headers: { "X-Razorpay-Signature": signature } };
});

add("plivo", "plivo", async () => {
  const { default: plivo } = await import("plivo");
  const url = `${URL_OF_HOOK}?team=b&lang=a`;
  const fields = { To: "15005550001", From: "15005550006", Text: "interop" };
  const nonce = "12345678901234567890";
  // The query is sorted, and so are the fields of the form, which follow it as names and values.
  const signed = `${URL_OF_HOOK}?lang=a&team=b.From15005550006TextinteropTo15005550001.${nonce}`;
  const signature = hmac(SECRET, signed, "base64");
  assert(plivo.validateV3Signature("POST", url, nonce, SECRET, signature, fields));
  return {
    verified: "validateV3Signature", secret: SECRET, url, type: FORM, body: new URLSearchParams(fields).toString(),
    headers: { "X-Plivo-Signature-V3-Nonce": nonce, "X-Plivo-Signature-V3": signature },
  };
});

// The body is not signed. The ids of payments are numbers, those of orders have capital letters.
for (const [variant, id] of [["payment", "123456789"], ["order", "ORD01JQ4S4KY8HWQ6NA5PXB65B3D3"]]) {
  add("mercadopago", "mercadopago", async () => {
    const { WebhookSignatureValidator } = (await import("mercadopago")).default;
    const timestamp = String(seconds());
    const header = `ts=${timestamp},v1=${hmac(SECRET, `id:${id};request-id:req-1;ts:${timestamp};`)}`;
    WebhookSignatureValidator.validate({ xSignature: header, xRequestId: "req-1", dataId: id, secret: SECRET });
    return {
      variant, verified: "WebhookSignatureValidator.validate", secret: SECRET, covered: id,
      url: `${URL_OF_HOOK}?data.id=${id}&type=${variant}`,
      headers: { "x-request-id": "req-1", "x-signature": header },
    };
  });
}

add("@upstash/qstash", "upstash_qstash", async () => {
  const { Receiver } = await import("@upstash/qstash");
  const at = seconds();
  const times = { iat: at, nbf: at, exp: at + 300 };
  const claims = { iss: "Upstash", sub: URL_OF_HOOK, ...times, jti: "jwt_1", body: sha256(BODY, "base64url") };
  const signature = jwt(claims, SECRET);
  const receiver = new Receiver({ currentSigningKey: SECRET, nextSigningKey: `${SECRET}-2` });
  assert(await receiver.verify({ signature, body: BODY, url: URL_OF_HOOK }));
  return { verified: "Receiver.verify", secret: SECRET, headers: { "Upstash-Signature": signature } };
});

add("@vonage/jwt", "vonage", async () => {
  const { verifySignature } = await import("@vonage/jwt");
  const claims = { iss: "Vonage", iat: seconds(), jti: "1", api_key: "unused", payload_hash: sha256(BODY, "hex") };
  const token = jwt(claims, SECRET);
  assert(verifySignature(token, SECRET));
  return { verified: "verifySignature", secret: SECRET, headers: { Authorization: `Bearer ${token}` } };
});

add("messagebird", "messagebird", async () => {
  const { verify } = (await import("messagebird/lib/webhook-signature-jwt.js")).default;
  const { createSecretKey } = await import("node:crypto");
  const at = seconds();
  const claims = {
    iss: "MessageBird", nbf: at, exp: at + 60, jti: "1",
    url_hash: sha256(URL_OF_HOOK, "hex"), payload_hash: sha256(BODY, "hex"),
  };
  const token = jwt(claims, SECRET);
  await verify(URL_OF_HOOK, Buffer.from(BODY), token, createSecretKey(Buffer.from(SECRET)));
  return { verified: "verify", secret: SECRET, headers: { "MessageBird-Signature-JWT": token } };
});

add("@mux/mux-node", "mux", async () => {
  const { default: Mux } = await import("@mux/mux-node");
  const timestamp = seconds();
  const headers = { "Mux-Signature": `t=${timestamp},v1=${hmac(SECRET, `${timestamp}.${BODY}`)}` };
  await new Mux({ webhookSecret: SECRET }).webhooks.verifySignature(BODY, headers);
  return { verified: "webhooks.verifySignature", secret: SECRET, headers };
});

add("pusher", "pusher", async () => {
  const { default: Pusher } = await import("pusher");
  const pusher = new Pusher({ appId: "1", key: "interop_key", secret: SECRET });
  const headers = { "x-pusher-key": "interop_key", "x-pusher-signature": hmac(SECRET, BODY) };
  const received = { "content-type": "application/json", ...headers };
  assert(pusher.webhook({ headers: received, rawBody: BODY }).isValid());
  return { verified: "webhook().isValid", secret: SECRET, headers };
});

add("@line/bot-sdk", "line", async () => {
  const { validateSignature } = await import("@line/bot-sdk");
  const signature = hmac(SECRET, BODY, "base64");
  assert(validateSignature(BODY, SECRET, signature));
  return { verified: "validateSignature", secret: SECRET, headers: { "X-Line-Signature": signature } };
});

add("@linear/sdk", "linear", async () => {
  const { LinearWebhookClient } = await import("@linear/sdk/webhooks");
  const body = JSON.stringify({ ...JSON.parse(BODY), webhookTimestamp: Date.now() });
  const signature = hmac(SECRET, body);
  assert(new LinearWebhookClient(SECRET).verify(Buffer.from(body), signature));
  return { verified: "LinearWebhookClient.verify", secret: SECRET, headers: { "Linear-Signature": signature }, body };
});

add("@slack/bolt", "slack", async () => {
  const { verifySlackRequest } = (await import("@slack/bolt")).default;
  const body = new URLSearchParams({ command: "/interop", text: "café ☕" }).toString();
  const timestamp = seconds();
  const signature = `v0=${hmac(SECRET, `v0:${timestamp}:${body}`)}`;
  const headers = { "x-slack-request-timestamp": timestamp, "x-slack-signature": signature };
  verifySlackRequest({ signingSecret: SECRET, body, headers });
  return {
    verified: "verifySlackRequest", secret: SECRET, type: FORM, body,
    headers: { "X-Slack-Request-Timestamp": String(timestamp), "X-Slack-Signature": signature },
  };
});

add("@elevenlabs/elevenlabs-js", "elevenlabs", async () => {
  const { ElevenLabsClient } = await import("@elevenlabs/elevenlabs-js");
  const timestamp = seconds();
  const header = `t=${timestamp},v0=${hmac(SECRET, `${timestamp}.${BODY}`)}`;
  await new ElevenLabsClient({ apiKey: "unused" }).webhooks.constructEvent(BODY, header, SECRET);
  return { verified: "webhooks.constructEvent", secret: SECRET, headers: { "ElevenLabs-Signature": header } };
});

add("openai", "openai", async () => {
  const { default: OpenAI } = await import("openai");
  const headers = standardHeaders(SECRET);
  await new OpenAI({ apiKey: "unused", webhookSecret: WHSEC }).webhooks.verifySignature(BODY, headers);
  return { verified: "webhooks.verifySignature", secret: WHSEC, headers };
});

add("lithic", "lithic", async () => {
  const { default: Lithic } = await import("lithic");
  const headers = standardHeaders(SECRET);
  new Lithic({ apiKey: "unused", webhookSecret: WHSEC }).webhooks.verifySignature(BODY, headers);
  return { verified: "webhooks.verifySignature", secret: WHSEC, headers };
});

add("replicate", "replicate", async () => {
  const { validateWebhook } = (await import("replicate")).default;
  const headers = standardHeaders(SECRET);
  assert(await validateWebhook({ headers, body: BODY }, WHSEC));
  return { verified: "validateWebhook", secret: WHSEC, headers };
});

add("@imagekit/nodejs", "imagekit", async () => {
  const { default: ImageKit } = await import("@imagekit/nodejs");
  // The key is the secret's text, `whsec_` included.
  const headers = standardHeaders(WHSEC);
  new ImageKit({ privateKey: "unused", webhookSecret: WHSEC }).webhooks.unwrap(BODY, { headers });
  return { verified: "webhooks.unwrap", secret: WHSEC, headers };
});

add("@polar-sh/sdk", "polar", async () => {
  const { validateEvent, WebhookVerificationError } = await import("@polar-sh/sdk/webhooks");
  const secret = `polar_whs_${SECRET}`;
  const headers = standardHeaders(secret);
  // The SDK parses the event after verifying it, and does not know this type.
  const refused = (error) => error instanceof WebhookVerificationError;
  try { validateEvent(BODY, headers, secret); } catch (error) { assert(!refused(error), error); }
  assert.throws(() => validateEvent(`${BODY} `, headers, secret), refused);
  return { verified: "validateEvent", secret, headers };
});

add("resend", "resend", async () => {
  const { Resend } = await import("resend");
  const headers = standardHeaders(SECRET, "svix");
  const plain = { id: headers["svix-id"], timestamp: headers["svix-timestamp"], signature: headers["svix-signature"] };
  new Resend("re_unused").webhooks.verify({ payload: BODY, headers: plain, webhookSecret: WHSEC });
  return { verified: "webhooks.verify", secret: WHSEC, headers };
});

add("@clerk/backend", "clerk", async () => {
  const { verifyWebhook } = await import("@clerk/backend/webhooks");
  const headers = standardHeaders(SECRET, "svix");
  const request = new Request(URL_OF_HOOK, { method: "POST", headers, body: BODY });
  await verifyWebhook(request, { signingSecret: WHSEC });
  return { verified: "verifyWebhook", secret: WHSEC, headers };
});

add("mailersend", "mailersend", async () => {
  const { MailerSendUtils } = await import("mailersend/lib/services/mailersend.utils.js");
  const signature = hmac(SECRET, BODY);
  assert(MailerSendUtils.verifyWebHook(BODY, signature, SECRET));
  return { verified: "MailerSendUtils.verifyWebHook", secret: SECRET, headers: { Signature: signature } };
});

add("@onfido/api", "onfido", async () => {
  const { WebhookEventVerifier } = (await import("@onfido/api")).default;
  const signature = hmac(SECRET, BODY);
  new WebhookEventVerifier(SECRET).readPayload(BODY, signature);
  return { verified: "WebhookEventVerifier.readPayload", secret: SECRET, headers: { "X-SHA2-Signature": signature } };
});

add("orb-billing", "orb", async () => {
  const { default: Orb } = await import("orb-billing");
  const timestamp = new Date().toISOString().replace("Z", "");
  const headers = { "X-Orb-Timestamp": timestamp, "X-Orb-Signature": `v1=${hmac(SECRET, `v1:${timestamp}:${BODY}`)}` };
  new Orb({ apiKey: "unused", webhookSecret: SECRET }).webhooks.verifySignature(BODY, headers);
  return { verified: "webhooks.verifySignature", secret: SECRET, headers };
});

add("gocardless-nodejs", "gocardless", async () => {
  const { verifySignature } = await import("gocardless-nodejs");
  const signature = hmac(SECRET, BODY);
  verifySignature(BODY, SECRET, signature);
  return { verified: "verifySignature", secret: SECRET, headers: { "Webhook-Signature": signature } };
});

add("@easypost/api", "easypost", async () => {
  const { default: EasyPost } = await import("@easypost/api");
  // A letter with another form in NFKD, to which the key is normalised.
  const secret = `${SECRET}-é`;
  const headers = { "X-Hmac-Signature": `hmac-sha256-hex=${hmac(secret.normalize("NFKD"), BODY)}` };
  new EasyPost("unused").Utils.validateWebhook(Buffer.from(BODY), headers, secret);
  return { verified: "Utils.validateWebhook", secret, headers };
});

add("@dropbox/sign", "dropbox_sign", async () => {
  const { EventCallbackHelper, EventCallbackRequest } = (await import("@dropbox/sign")).default;
  const event = { event_time: String(seconds()), event_type: "signature_request_sent" };
  event.event_hash = hmac(SECRET, event.event_time + event.event_type);
  assert(EventCallbackHelper.isValid(SECRET, EventCallbackRequest.init({ event })));
  const line = "----interop";
  const field = `Content-Disposition: form-data; name="json"\r\n\r\n${JSON.stringify({ event })}`;
  return {
    verified: "EventCallbackHelper.isValid", secret: SECRET, headers: {}, covered: "signature_request_sent",
    type: `multipart/form-data; boundary=${line}`, body: `--${line}\r\n${field}\r\n--${line}--\r\n`,
  };
});

add("webflow-api", "webflow", async () => {
  const { WebflowClient } = (await import("webflow-api")).default;
  const timestamp = Date.now();
  const signature = hmac(SECRET, `${timestamp}:${BODY}`);
  const headers = { "x-webflow-timestamp": String(timestamp), "x-webflow-signature": signature };
  const client = new WebflowClient({ accessToken: "unused" });
  assert(await client.webhooks.verifySignature({ headers, body: BODY, secret: SECRET }));
  return { verified: "webhooks.verifySignature", secret: SECRET, headers };
});

add("@nangohq/node", "nango", async () => {
  const { Nango } = await import("@nangohq/node");
  const headers = { "X-Nango-Hmac-Sha256": hmac(SECRET, BODY) };
  const nango = new Nango({ apiKey: "unused", webhookSigningKey: SECRET });
  assert(nango.verifyIncomingWebhookRequest(BODY, headers));
  return { verified: "verifyIncomingWebhookRequest", secret: SECRET, headers };
});

add("@stream-io/node-sdk", "getstream", async () => {
  const { StreamClient } = await import("@stream-io/node-sdk");
  const signature = hmac(SECRET, BODY);
  assert(new StreamClient("unused", SECRET).verifyWebhook(BODY, signature));
  return { verified: "StreamClient.verifyWebhook", secret: SECRET, headers: { "X-Signature": signature } };
});

// ---------------------------------------------------------------- printing

// Console output of an SDK would mix with the lines of this program.
console.log = console.info = console.debug = console.error;

const wanted = new Set(process.argv.slice(2));
for (const { sdk, provider, make } of cases.filter((one) => wanted.has(one.sdk))) {
  const line = { sdk, provider };
  try {
    const { type = "application/json", body = BODY, headers, ...rest } = await make();
    const sent = { "Content-Type": type, ...headers };
    Object.assign(line, { url: URL_OF_HOOK, covered: "interop", ...rest, headers: sent, body, at: seconds() });
  } catch (error) {
    line.error = String(error?.stack ?? error);
  }
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
process.exit(0);
