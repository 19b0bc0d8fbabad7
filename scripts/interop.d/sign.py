"""Signs webhook requests with the Python SDKs that `scripts/interop` installed, and prints each as
one line of JSON; sign.mjs does the same for Node.js. The arguments are the packages to use.

A case returns what the provider sends: `secret` (what the receiver is given), `headers`, `body`,
`url`, and which function of the SDK signed it (`signed`) or, where the SDK can't sign, confirmed the
signature that Python's hmac made the way its documentation says (`verified`). `covered` is a text of
the body or the URL that the signature covers: changing it must be noticed.

Where the SDK has both functions, it checks its own signature too. A case that raises is reported,
and the other cases run on.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import re
import sys
import time
import traceback
import types
import unicodedata
from urllib.parse import urlencode

URL = "https://hooks.example.org/webhooks/interop"
EVENT = {"id": "evt_1", "type": "interop.check", "who": "café ☕", "amount": 1250}
BODY = json.dumps(EVENT, ensure_ascii=False)
SECRET = "only-this-check-uses-this-secret"
WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()
HEX_KEY = SECRET.encode().hex()
FORM = "application/x-www-form-urlencoded; charset=utf-8"

CASES = []


def case(sdk, provider):
    """Registers a case: the package on PyPI, and the provider's name in Hookward."""
    return lambda make: CASES.append((sdk, provider, make))


def sha256_hmac(secret, text):
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256)


def hmac_hex(secret, text):
    return sha256_hmac(secret, text).hexdigest()


def hmac_base64(secret, text):
    return base64.b64encode(sha256_hmac(secret, text).digest()).decode()


def standard_headers(key):
    """Returns the headers of Standard Webhooks, signed with `key`."""
    at = str(int(time.time()))
    signature = "v1," + hmac_base64(key, f"msg_1.{at}.{BODY}")
    return {"webhook-id": "msg_1", "webhook-timestamp": at, "webhook-signature": signature}


# ---------------------------------------------------------------- the SDKs that sign


@case("stripe", "stripe")
def stripe():
    from stripe import Webhook, WebhookSignature

    header = WebhookSignature.generate_signature_header(BODY, WHSEC)
    Webhook.construct_event(BODY, header, WHSEC)
    headers = {"Stripe-Signature": header}
    return {"signed": "WebhookSignature.generate_signature_header", "secret": WHSEC, "headers": headers}


@case("standardwebhooks", "standard_webhooks")
def standardwebhooks():
    from datetime import datetime, timezone

    from standardwebhooks import Webhook

    webhook = Webhook(WHSEC)
    at = datetime.now(timezone.utc)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": webhook.sign("msg_1", at, BODY),
    }
    webhook.verify(BODY, headers)
    return {"signed": "Webhook.sign", "secret": WHSEC, "headers": headers}


@case("svix", "svix")
def svix():
    from datetime import datetime, timezone

    from svix.webhooks import Webhook

    webhook = Webhook(WHSEC)
    at = datetime.now(timezone.utc)
    headers = {
        "svix-id": "msg_1",
        "svix-timestamp": str(int(at.timestamp())),
        "svix-signature": webhook.sign("msg_1", at, BODY),
    }
    webhook.verify(BODY, headers)
    return {"signed": "Webhook.sign", "secret": WHSEC, "headers": headers}


@case("slack_sdk", "slack")
def slack():
    from slack_sdk.signature import SignatureVerifier

    body = urlencode({"command": "/interop", "text": "café ☕"})
    verifier = SignatureVerifier(SECRET)
    at = str(int(time.time()))
    signature = verifier.generate_signature(timestamp=at, body=body)
    headers = {"X-Slack-Request-Timestamp": at, "X-Slack-Signature": signature}
    assert verifier.is_valid_request(body, headers)
    signed = "SignatureVerifier.generate_signature"
    return {"signed": signed, "secret": SECRET, "headers": headers, "type": FORM, "body": body}


def twilio_form(variant, settings):
    from twilio.request_validator import RequestValidator, get_signature_algorithm

    url = f"{URL}?campaign=spring%20sale"
    fields = {"From": "+15005550006", "To": "+15005550001", "Body": "interop & café ☕", "Note": ""}
    algorithm = get_signature_algorithm(settings.get("X-Twilio-Webhooks-Signature-Settings"))
    validator = RequestValidator(SECRET)
    signature = validator.compute_signature(url, fields, algorithm)
    assert validator.validate(url, fields, signature, algorithm)
    return {
        "variant": variant, "signed": "RequestValidator.compute_signature", "secret": SECRET, "url": url,
        "type": FORM, "headers": settings | {"X-Twilio-Signature": signature}, "body": urlencode(fields),
    }


SHARED_KEY = {"X-Twilio-Webhooks-Signature-Settings": "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"}
case("twilio", "twilio")(lambda: twilio_form("", {}))
case("twilio", "twilio")(lambda: twilio_form("shared key", SHARED_KEY))


@case("twilio", "twilio")
def twilio_json():
    from twilio.request_validator import RequestValidator

    validator = RequestValidator(SECRET)
    url = f"{URL}?bodySHA256={validator.compute_hash(BODY)}"
    signature = validator.compute_signature(url, {})
    assert validator.validate(url, BODY, signature)
    return {
        "variant": "JSON", "signed": "RequestValidator.compute_signature", "secret": SECRET, "url": url,
        "headers": {"X-Twilio-Signature": signature},
    }


@case("braintree", "braintree")
def braintree():
    import braintree

    keys = {"public_key": "interop_public_key", "private_key": SECRET}
    gateway = braintree.BraintreeGateway(
        braintree.Configuration(braintree.Environment.Sandbox, "unused", keys["public_key"], keys["private_key"])
    )
    sample = gateway.webhook_testing.sample_notification(braintree.WebhookNotification.Kind.Check, "interop")
    payload = sample["bt_payload"].decode()
    gateway.webhook_notification.parse(sample["bt_signature"], payload)
    return {
        "signed": "webhook_testing.sample_notification", "secret": keys, "headers": {}, "type": FORM,
        "body": urlencode({"bt_signature": sample["bt_signature"], "bt_payload": payload}),
        "covered": re.search("[A-Za-z0-9]{8}", payload)[0],
    }


@case("box-sdk-gen", "box")
def box():
    from box_sdk_gen import WebhooksManager
    from box_sdk_gen.internal.utils import compute_webhook_signature

    keys = {"primary": SECRET, "secondary": f"{SECRET}-2"}
    headers = {
        "box-delivery-id": "1", "box-signature-version": "1", "box-signature-algorithm": "HmacSHA256",
        "box-delivery-timestamp": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }
    for name, key in keys.items():
        headers[f"box-signature-{name}"] = compute_webhook_signature(BODY, headers, key)
    assert WebhooksManager.validate_message(BODY, headers, keys["primary"], secondary_key=keys["secondary"])
    return {"signed": "compute_webhook_signature", "secret": keys, "headers": headers}


def hubspot(version):
    from hubspot.utils.signature import Signature

    # HubSpot signs the URL with some escapes decoded (":" is one of them) and sends it encoded.
    url = f"{URL}?object=contact%3A1"
    at = str(int(time.time() * 1000))
    what = {
        "client_secret": SECRET, "request_body": BODY, "signature_version": version, "http_method": "POST",
        "http_uri": url.replace("%3A", ":") if version == "v3" else url, "timestamp": at,
    }
    signature = Signature.get_signature(**what)
    assert Signature.is_valid(signature, **what)
    headers = {"X-HubSpot-Signature-Version": version, "X-HubSpot-Signature": signature}
    if version == "v3":
        headers = {"X-HubSpot-Request-Timestamp": at, "X-HubSpot-Signature-v3": signature}
    return {"signed": "Signature.get_signature", "secret": SECRET, "url": url, "headers": headers}


case("hubspot-api-client", "hubspot_v1")(lambda: hubspot("v1"))
case("hubspot-api-client", "hubspot_v2")(lambda: hubspot("v2"))
case("hubspot-api-client", "hubspot_v3")(lambda: hubspot("v3"))


@case("Adyen", "adyen_payments")
def adyen_payments():
    from Adyen.util import generate_notification_sig, is_valid_hmac_notification

    item = {
        "pspReference": "7914073381342284", "originalReference": "", "merchantAccountCode": "HookwardShop",
        "merchantReference": "interop-1", "amount": {"value": 1130, "currency": "EUR"},
        "eventCode": "AUTHORISATION", "success": "true", "paymentMethod": "visa",
    }
    item["additionalData"] = {"hmacSignature": generate_notification_sig(item, HEX_KEY).decode()}
    notification = {"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}
    assert is_valid_hmac_notification(notification, HEX_KEY)
    return {
        "signed": "util.generate_notification_sig", "secret": HEX_KEY, "headers": {},
        "body": json.dumps(notification), "covered": "interop-1",
    }


@case("Adyen", "adyen_platform")
def adyen_platform():
    from Adyen.util import generate_payload_sig, is_valid_hmac_payload

    signature = generate_payload_sig(BODY.encode(), HEX_KEY).decode()
    assert is_valid_hmac_payload(signature, HEX_KEY, BODY.encode())
    return {"signed": "util.generate_payload_sig", "secret": HEX_KEY, "headers": {"HmacSignature": signature}}


def plivo(variant, url):
    from plivo.utils import signature_v3

    fields = {"To": "15005550001", "From": "15005550006", "Text": "interop"}
    nonce = "12345678901234567890"
    signed = signature_v3.construct_post_url(url, fields).decode()
    signature = signature_v3.get_signature_v3(SECRET, signed, nonce).decode()
    assert signature_v3.validate_v3_signature("POST", url, nonce, SECRET, signature, fields)
    return {
        "variant": variant, "signed": "signature_v3.get_signature_v3", "secret": SECRET, "url": url, "type": FORM,
        "headers": {"X-Plivo-Signature-V3-Nonce": nonce, "X-Plivo-Signature-V3": signature},
        "body": urlencode(fields),
    }


case("plivo", "plivo")(lambda: plivo("", f"{URL}?team=b&lang=a"))
case("plivo", "plivo")(lambda: plivo("no query", URL))


@case("livekit-api", "livekit")
def livekit():
    from livekit.api import AccessToken, TokenVerifier, WebhookReceiver

    body = json.dumps({"event": "room_started", "id": "interop", "room": {"name": "café ☕"}}, ensure_ascii=False)
    body_hash = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    token = AccessToken("interop_key", SECRET).with_sha256(body_hash).to_jwt()
    WebhookReceiver(TokenVerifier("interop_key", SECRET)).receive(body, token)
    return {
        "signed": "AccessToken.to_jwt", "secret": SECRET, "type": "application/webhook+json", "body": body,
        "headers": {"Authorization": token},
    }


@case("mollie-api-py", "mollie")
def mollie():
    from mollie.utils.webhooks.signature_validator import SignatureValidator

    header = "sha256=" + SignatureValidator.create_signature(BODY, SECRET)
    assert SignatureValidator.validate(BODY, SECRET, header)
    headers = {"X-Mollie-Signature": header}
    return {"signed": "SignatureValidator.create_signature", "secret": SECRET, "headers": headers}


@case("modern-treasury", "modern_treasury")
def modern_treasury():
    from modern_treasury import ModernTreasury

    webhooks = ModernTreasury(api_key="unused", organization_id="unused", webhook_key=SECRET).webhooks
    signature = webhooks.get_signature(BODY)
    headers = {"X-Signature": signature}
    assert webhooks.validate_signature(BODY, headers)
    return {"signed": "webhooks.get_signature", "secret": SECRET, "headers": headers}


@case("retell-sdk", "retell")
def retell():
    from retell.lib import webhook_auth

    header = webhook_auth.symmetric["sign"](BODY, SECRET)
    assert webhook_auth.verify(BODY, SECRET, header)
    return {"signed": "webhook_auth.symmetric.sign", "secret": SECRET, "headers": {"x-retell-signature": header}}


# ---------------------------------------------------------------- the SDKs that only verify


@case("discord-interactions", "discord")
def discord():
    from discord_interactions import verify_key
    from nacl.signing import SigningKey

    key = SigningKey.generate()
    public_key = key.verify_key.encode().hex()
    at = str(int(time.time()))
    signature = key.sign((at + BODY).encode()).signature.hex()
    assert verify_key(BODY.encode(), signature, at, public_key)
    headers = {"X-Signature-Timestamp": at, "X-Signature-Ed25519": signature}
    return {"verified": "verify_key", "secret": public_key, "headers": headers}


@case("sendgrid", "sendgrid")
def sendgrid():
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from sendgrid.helpers.eventwebhook import EventWebhook

    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public_key = base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, form)).decode()
    at = str(int(time.time()))
    body = f"[{BODY}]\r\n"
    signature = base64.b64encode(key.sign((at + body).encode(), ec.ECDSA(hashes.SHA256()))).decode()
    assert EventWebhook(public_key).verify_signature(body, signature, at)
    headers = {
        "X-Twilio-Email-Event-Webhook-Timestamp": at, "X-Twilio-Email-Event-Webhook-Signature": signature,
    }
    return {"verified": "EventWebhook.verify_signature", "secret": public_key, "headers": headers, "body": body}


@case("telnyx", "telnyx")
def telnyx():
    from nacl.signing import SigningKey
    from telnyx.lib.webhook_verification import verify_webhook_signature

    key = SigningKey.generate()
    public_key = base64.b64encode(key.verify_key.encode()).decode()
    at = str(int(time.time()))
    signature = base64.b64encode(key.sign(f"{at}|{BODY}".encode()).signature).decode()
    headers = {"Telnyx-Timestamp": at, "Telnyx-Signature-Ed25519": signature}
    verify_webhook_signature(BODY, headers, public_key)
    return {"verified": "verify_webhook_signature", "secret": public_key, "headers": headers}


@case("qstash", "upstash_qstash")
def qstash():
    import jwt
    from qstash import Receiver

    at = int(time.time())
    body_hash = base64.urlsafe_b64encode(hashlib.sha256(BODY.encode()).digest()).decode()
    claims = {"iss": "Upstash", "sub": URL, "iat": at, "nbf": at, "exp": at + 300, "jti": "jwt_1", "body": body_hash}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    Receiver(SECRET, f"{SECRET}-2").verify(signature=token, body=BODY, url=URL)
    return {"verified": "Receiver.verify", "secret": SECRET, "headers": {"Upstash-Signature": token}}


@case("vonage-jwt", "vonage")
def vonage():
    import jwt
    from vonage_jwt import verify_signature

    body_hash = hashlib.sha256(BODY.encode()).hexdigest()
    claims = {"iss": "Vonage", "iat": int(time.time()), "jti": "1", "api_key": "unused", "payload_hash": body_hash}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    assert verify_signature(token, SECRET)
    return {"verified": "verify_signature", "secret": SECRET, "headers": {"Authorization": f"Bearer {token}"}}


@case("messagebird", "messagebird")
def messagebird():
    import jwt
    from messagebird.request_validator import RequestValidator

    at = int(time.time())
    claims = {
        "iss": "MessageBird", "nbf": at, "exp": at + 60, "jti": "1",
        "url_hash": hashlib.sha256(URL.encode()).hexdigest(),
        "payload_hash": hashlib.sha256(BODY.encode()).hexdigest(),
    }
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    RequestValidator(SECRET).validate_signature(token, URL, BODY.encode())
    headers = {"MessageBird-Signature-JWT": token}
    return {"verified": "RequestValidator.validate_signature", "secret": SECRET, "headers": headers}


@case("cloudinary", "cloudinary")
def cloudinary():
    import cloudinary
    from cloudinary.utils import verify_notification_signature

    cloudinary.config(cloud_name="interop", api_key="unused", api_secret=SECRET)
    at = str(int(time.time()))
    signature = hashlib.sha1(f"{BODY}{at}{SECRET}".encode()).hexdigest()
    assert verify_notification_signature(BODY, at, signature)
    headers = {"X-Cld-Timestamp": at, "X-Cld-Signature": signature}
    return {"verified": "utils.verify_notification_signature", "secret": SECRET, "headers": headers}


@case("mercadopago", "mercadopago")
def mercadopago():
    from mercadopago.webhook import WebhookSignatureValidator

    at = str(int(time.time()))
    header = f"ts={at},v1={hmac_hex(SECRET, f'id:123456789;request-id:req-1;ts:{at};')}"
    WebhookSignatureValidator.validate(header, "req-1", "123456789", SECRET)
    return {
        "verified": "WebhookSignatureValidator.validate", "secret": SECRET, "covered": "123456789",
        "url": f"{URL}?data.id=123456789&type=payment",
        "headers": {"x-request-id": "req-1", "x-signature": header},
    }


@case("easypost", "easypost")
def easypost():
    from easypost.util import validate_webhook

    # A letter with another form in NFKD, to which the key is normalised.
    secret = f"{SECRET}-é"
    signature = hmac_hex(unicodedata.normalize("NFKD", secret), BODY)
    headers = {"X-Hmac-Signature": f"hmac-sha256-hex={signature}"}
    validate_webhook(BODY.encode(), headers, secret)
    return {"verified": "util.validate_webhook", "secret": secret, "headers": headers}


@case("paddle-python-sdk", "paddle")
def paddle():
    from paddle_billing.Notifications import Secret, Verifier

    at = int(time.time())
    headers = {"Paddle-Signature": f"ts={at};h1={hmac_hex(SECRET, f'{at}:{BODY}')}"}
    request = types.SimpleNamespace(headers=headers, body=BODY.encode())
    assert Verifier().verify(request, Secret(SECRET))
    return {"verified": "Verifier.verify", "secret": SECRET, "headers": headers}


@case("workos", "workos")
def workos():
    from workos import WorkOSClient

    at = int(time.time() * 1000)
    header = f"t={at}, v1={hmac_hex(SECRET, f'{at}.{BODY}')}"
    webhooks = WorkOSClient(api_key="unused", client_id="unused").webhooks
    webhooks.verify_header(event_body=BODY.encode(), event_signature=header, secret=SECRET)
    return {"verified": "webhooks.verify_header", "secret": SECRET, "headers": {"WorkOS-Signature": header}}


@case("openai", "openai")
def openai():
    from openai import OpenAI

    headers = standard_headers(SECRET)
    OpenAI(api_key="unused", webhook_secret=WHSEC).webhooks.verify_signature(BODY, headers)
    return {"verified": "webhooks.verify_signature", "secret": WHSEC, "headers": headers}


@case("pusher", "pusher")
def pusher():
    import pusher

    client = pusher.Pusher(app_id="1", key="interop_key", secret=SECRET)
    body = json.dumps({"time_ms": int(time.time() * 1000), "events": [{"name": "interop"}]})
    signature = hmac_hex(SECRET, body)
    assert client.validate_webhook("interop_key", signature, body)
    headers = {"X-Pusher-Key": "interop_key", "X-Pusher-Signature": signature}
    return {"verified": "Pusher.validate_webhook", "secret": SECRET, "headers": headers, "body": body}


@case("line-bot-sdk", "line")
def line():
    from linebot.v3.webhook import SignatureValidator

    signature = hmac_base64(SECRET, BODY)
    assert SignatureValidator(SECRET).validate(BODY, signature)
    return {"verified": "SignatureValidator.validate", "secret": SECRET, "headers": {"X-Line-Signature": signature}}


@case("gocardless_pro", "gocardless")
def gocardless():
    from gocardless_pro import webhooks

    body = json.dumps({"events": [{"id": "EV1", "details": {"cause": "interop"}}]})
    signature = hmac_hex(SECRET, body)
    webhooks.parse(body, SECRET, signature)
    return {"verified": "webhooks.parse", "secret": SECRET, "headers": {"Webhook-Signature": signature}, "body": body}


@case("castle", "castle")
def castle():
    from castle.configuration import configuration
    from castle.webhooks.verify import WebhooksVerify

    configuration.api_secret = SECRET
    headers = {"X-Castle-Signature": hmac_base64(SECRET, BODY)}
    WebhooksVerify.call(types.SimpleNamespace(data=BODY.encode(), headers=headers))
    return {"verified": "WebhooksVerify.call", "secret": SECRET, "headers": headers}


# ---------------------------------------------------------------- printing


def request(sdk, provider, make):
    """Returns the line with one case's request, or with the reason why it failed."""
    line = {"sdk": sdk, "provider": provider}
    try:
        # Output of an SDK would mix with the lines of this program.
        with contextlib.redirect_stdout(sys.stderr):
            made = make()
    except Exception:
        return line | {"error": traceback.format_exc(limit=-2)}
    sent = {"Content-Type": made.pop("type", "application/json")} | made.pop("headers")
    return line | {"url": URL, "body": BODY, "covered": "interop"} | made | {"headers": sent, "at": int(time.time())}


def main():
    for sdk, provider, make in CASES:
        if sdk in sys.argv[1:]:
            print(json.dumps(request(sdk, provider, make)), flush=True)


if __name__ == "__main__":
    main()
