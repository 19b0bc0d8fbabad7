"""Requests of providers that do more than sign the body in a header, for make-vectors.

Such requests have forms, URLs, JSON Web Tokens, batches, or secrets with several parts. They follow the providers'
documentation and SDKs, not the catalogue.

Each function returns one provider's request, signed with `key`. It inserts `change` into the signed text after signing,
so that the gate must refuse the request.
"""

import base64
import datetime
import hashlib
import hmac
import json
import urllib.parse
import zlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from cryptography.hazmat.primitives.asymmetric import ec

NOW = 1_700_000_000
ORIGIN = "https://hooks.example.com"
PATH = "/flexdeploy/webhooks/v1/in?a=1&data.id=ABC"
URL = ORIGIN + PATH
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
BODY = '{"ref":"refs/heads/main","who":"caf\u00e9"}'.encode()

PROVIDERS = []


def provider(name, variant=None, tolerance=None, url=False, covers_body=True, method="POST"):
    """Registers a function(key, now) -> (secret, headers, body[, path])."""

    def register(make):
        PROVIDERS.append(
            {"name": name, "variant": variant, "tolerance": tolerance, "url": url, "covers": covers_body, "method": method, "make": make}
        )
        return make

    return register


def mac(key, message, digest="sha256"):
    return hmac.new(key, message, digest).digest()


def b64(data):
    return base64.b64encode(data).decode()


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def text(key):
    return key.secret.decode()


def token(claims, sign, header):
    """Returns a JSON Web Token."""
    head = b64url(json.dumps(header, separators=(",", ":")).encode())
    payload = b64url(json.dumps(claims, separators=(",", ":")).encode())
    return f"{head}.{payload}.{b64url(sign(f'{head}.{payload}'.encode()))}"


def hs256(claims, key):
    return token(claims, lambda message: mac(key.secret, message), {"typ": "JWT", "alg": "HS256"})


def rs(claims, key, alg="RS256", hash_=hashes.SHA256()):
    return token(claims, lambda message: key.rsa.sign(message, padding.PKCS1v15(), hash_), {"alg": alg, "kid": key.name})


def number(value):
    return b64url(value.to_bytes((value.bit_length() + 7) // 8))


def rsa_set(key, alg):
    public = key.rsa.public_key().public_numbers()
    return json.dumps({"keys": [{"kty": "RSA", "kid": key.name, "alg": alg, "n": number(public.n), "e": number(public.e)}]})


def pem(public):
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def certificate(key):
    """Returns a fixed certificate of the key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhooks of the provider")])
    start = datetime.datetime(2023, 1, 1)
    made = x509.CertificateBuilder(name, name, key.rsa.public_key(), 1, start, start + datetime.timedelta(days=3650))
    return made.sign(key.rsa, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def iso(now):
    return datetime.datetime.fromtimestamp(now, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# Forms.


@provider("gitea")
def gitea(key, now):
    return text(key), {"Content-Type": JSON, "X-Gitea-Signature": mac(key.secret, BODY).hex()}, BODY


@provider("gitea")
def gitea_form(key, now):
    body = urllib.parse.urlencode({"payload": BODY}).encode()
    return text(key), {"Content-Type": FORM, "X-Gitea-Signature": mac(key.secret, BODY).hex()}, body


@provider("travis")
def travis(key, now):
    signature = key.rsa.sign(BODY, padding.PKCS1v15(), hashes.SHA1())
    body = urllib.parse.urlencode({"payload": BODY}).encode()
    return pem(key.rsa.public_key()), {"Content-Type": FORM, "Signature": b64(signature)}, body


@provider("braintree")
def braintree(key, now):
    payload = base64.encodebytes(b"<notification><kind>check</kind></notification>").decode()
    signature = mac(hashlib.sha1(key.secret).digest(), payload.encode(), "sha1").hex()
    body = urllib.parse.urlencode({"bt_signature": f"other|00&public_id|{signature}", "bt_payload": payload}).encode()
    return {"public_key": "public_id", "private_key": text(key)}, {"Content-Type": FORM}, body


@provider("transloadit")
def transloadit(key, now):
    data = '{"ok":"ASSEMBLY_COMPLETED"}'
    body = urllib.parse.urlencode({"transloadit": data, "signature": "sha384:" + mac(key.secret, data.encode(), "sha384").hex()})
    return text(key), {"Content-Type": FORM}, body.encode()


@provider("dropbox_sign", covers_body=False)
def dropbox_sign(key, now):
    event = {"event_time": str(now), "event_type": "callback_test"}
    event["event_hash"] = mac(key.secret, (event["event_time"] + event["event_type"]).encode()).hex()
    part = json.dumps({"event": event})
    body = f'--X1\r\nContent-Disposition: form-data; name="json"\r\n\r\n{part}\r\n--X1--\r\n'
    return text(key), {"Content-Type": "multipart/form-data; boundary=X1"}, body.encode()


def sorted_form(pairs):
    return "".join(name + value for name, value in sorted(set(pairs)))


TWILIO = [("To", "+18005551212"), ("From", "+14158675309"), ("Body", "a b&c"), ("Media", "2"), ("Media", "1")]


@provider("twilio", url=True)
def twilio(key, now):
    signature = b64(mac(key.secret, (URL + sorted_form(TWILIO)).encode(), "sha1"))
    return text(key), {"Content-Type": FORM, "X-Twilio-Signature": signature}, urllib.parse.urlencode(TWILIO).encode()


@provider("twilio", url=True)
def twilio_port(key, now):
    url = URL.replace("example.com", "example.com:443")
    signature = b64(mac(key.secret, (url + sorted_form(TWILIO)).encode(), "sha1"))
    return text(key), {"Content-Type": FORM, "X-Twilio-Signature": signature}, urllib.parse.urlencode(TWILIO).encode()


@provider("twilio", url=True)
def twilio_json(key, now):
    path = PATH + "&bodySHA256=" + hashlib.sha256(BODY).hexdigest()
    signature = b64(mac(key.secret, (ORIGIN + path).encode(), "sha1"))
    return text(key), {"Content-Type": JSON, "X-Twilio-Signature": signature}, BODY, path


@provider("twilio", url=True)
def twilio_sha256(key, now):
    signature = b64(mac(key.secret, (URL + sorted_form(TWILIO)).encode()))
    settings = {"X-Twilio-Webhooks-Signature-Settings": "key=primary,algorithm=HMAC_SHA256"}
    return text(key), {"Content-Type": FORM, "X-Twilio-Signature": signature, **settings}, urllib.parse.urlencode(TWILIO).encode()


@provider("mandrill", url=True)
def mandrill(key, now):
    pairs = [("mandrill_events", '[{"event":"send"}]')]
    signature = b64(mac(key.secret, (URL + sorted_form(pairs)).encode(), "sha1"))
    return text(key), {"Content-Type": FORM, "X-Mandrill-Signature": signature}, urllib.parse.urlencode(pairs).encode()


@provider("plivo", url=True)
def plivo(key, now):
    pairs = [("To", "1415"), ("From", "1800"), ("To", "1415")]
    signed = f"{ORIGIN}/flexdeploy/webhooks/v1/in?a=1&data.id=ABC.From1800To1415To1415.nonce1"
    headers = {"Content-Type": FORM, "X-Plivo-Signature-V3-Nonce": "nonce1", "X-Plivo-Signature-V3": b64(mac(key.secret, signed.encode()))}
    return text(key), headers, urllib.parse.urlencode(pairs).encode()


@provider("kofi", covers_body=None)
def kofi(key, now):
    return text(key), {"Content-Type": FORM}, urllib.parse.urlencode({"data": json.dumps({"verification_token": text(key), "type": "Donation"})}).encode()


# URLs, queries, headers.


@provider("trello", url=True)
def trello(key, now):
    return text(key), {"X-Trello-Webhook": b64(mac(key.secret, BODY + URL.encode(), "sha1"))}, BODY


@provider("square", url=True)
def square(key, now):
    return text(key), {"x-square-hmacsha256-signature": b64(mac(key.secret, URL.encode() + BODY))}, BODY


@provider("hubspot_v1")
def hubspot_v1(key, now):
    signature = hashlib.sha256(key.secret + BODY).hexdigest()
    return text(key), {"X-HubSpot-Signature-Version": "v1", "X-HubSpot-Signature": signature}, BODY


@provider("hubspot_v2", url=True)
def hubspot_v2(key, now):
    signature = hashlib.sha256(key.secret + b"POST" + URL.encode() + BODY).hexdigest()
    return text(key), {"X-HubSpot-Signature-Version": "v2", "X-HubSpot-Signature": signature}, BODY


@provider("hubspot_v3", url=True, tolerance=300)
def hubspot_v3(key, now):
    path, ts = PATH + "&q=%40%20", str(now * 1000)
    signed = "POST" + ORIGIN + path.replace("%40", "@") + BODY.decode() + ts
    headers = {"X-HubSpot-Request-Timestamp": ts, "X-HubSpot-Signature-v3": b64(mac(key.secret, signed.encode()))}
    return text(key), headers, BODY, path


@provider("contentful", tolerance=30)
def contentful(key, now):
    names = ["x-contentful-topic", "x-contentful-timestamp", "x-contentful-signed-headers"]
    headers = {"X-Contentful-Topic": "Entry.publish", "X-Contentful-Timestamp": str(now * 1000), "X-Contentful-Signed-Headers": ",".join(names)}
    lower = {name.lower(): value for name, value in headers.items()}
    path, query = PATH.split("?")
    path = f"{path}?{urllib.parse.quote(urllib.parse.quote(query, safe='-_.!~*()'), safe='')}"
    signed = "\n".join(["POST", path, ";".join(f"{name}:{lower[name]}" for name in names), BODY.decode()])
    return text(key), {**headers, "X-Contentful-Signature": mac(key.secret, signed.encode()).hex()}, BODY


@provider("docusign")
def docusign(key, now):
    return text(key), {"X-DocuSign-Signature-1": b64(bytes(32)), "X-DocuSign-Signature-2": b64(mac(key.secret, BODY))}, BODY


@provider("pandadoc")
def pandadoc(key, now):
    return text(key), {}, BODY, PATH + "&signature=" + mac(key.secret, BODY).hex()


@provider("mercadopago", covers_body=False)
def mercadopago(key, now):
    signed = f"id:abc;request-id:r-1;ts:{now};"
    return text(key), {"x-request-id": "r-1", "x-signature": f"ts={now},v1={mac(key.secret, signed.encode()).hex()}"}, BODY


@provider("mercadopago", covers_body=False)
def mercadopago_without_request_id(key, now):
    signed = f"id:abc;ts:{now};"
    return text(key), {"x-signature": f"ts={now},v1={mac(key.secret, signed.encode()).hex()}"}, BODY


@provider("mercadopago", covers_body=False)
def mercadopago_as_received(key, now):
    signed = f"id:ABC;ts:{now};"
    return text(key), {"x-signature": f"ts={now},v1={mac(key.secret, signed.encode()).hex()}"}, BODY


@provider("paypal", covers_body=None)
def paypal(key, now):
    signed = f"t-1|{iso(now)}|WH-1|{zlib.crc32(BODY)}"
    signature = key.rsa.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    headers = {"PayPal-Transmission-Id": "t-1", "PayPal-Transmission-Time": iso(now), "PayPal-Auth-Algo": "SHA256withRSA", "PayPal-Transmission-Sig": b64(signature)}
    return {"webhook_id": "WH-1", "certificate": certificate(key)}, headers, BODY


@provider("lark")
def lark(key, now):
    signature = hashlib.sha256(f"{now}n-1".encode() + key.secret + BODY).hexdigest()
    return text(key), {"X-Lark-Request-Timestamp": str(now), "X-Lark-Request-Nonce": "n-1", "X-Lark-Signature": signature}, BODY


@provider("lark", variant="card")
def lark_card(key, now):
    signature = hashlib.sha1(f"{now}n-1".encode() + key.secret + BODY).hexdigest()
    return text(key), {"X-Lark-Request-Timestamp": str(now), "X-Lark-Request-Nonce": "n-1", "X-Lark-Signature": signature}, BODY


@provider("quicknode")
def quicknode(key, now):
    return text(key), {"X-QN-Nonce": "n1", "X-QN-Timestamp": str(now), "X-QN-Signature": mac(key.secret, f"n1{now}".encode() + BODY).hex()}, BODY


@provider("gitguardian", tolerance=300)
def gitguardian(key, now):
    signature = mac(str(now).encode() + key.secret, BODY).hex()
    return text(key), {"timestamp": str(now), "gitguardian-signature": "sha256=" + signature}, BODY


@provider("gitee", tolerance=3600, covers_body=False)
def gitee(key, now):
    ts = str(now * 1000)
    return text(key), {"X-Gitee-Timestamp": ts, "X-Gitee-Token": b64(mac(key.secret, f"{ts}\n".encode() + key.secret))}, BODY


@provider("gitee", variant="password", covers_body=None)
def gitee_password(key, now):
    return text(key), {"X-Gitee-Token": text(key)}, BODY


@provider("sumsub")
def sumsub(key, now):
    return text(key), {"x-payload-digest-alg": "HMAC_SHA256_HEX", "x-payload-digest": mac(key.secret, BODY).hex()}, BODY


# Other keys, other digests, lists.


@provider("connectwise_psa")
def connectwise_psa(key, now):
    return text(key), {"x-content-signature": b64(mac(hashlib.sha256(key.secret).digest(), BODY))}, BODY


@provider("easypost")
def easypost(key, now):
    return text(key), {"X-Hmac-Signature": "hmac-sha256-hex=" + mac(key.secret, BODY).hex()}, BODY


@provider("fitbit")
def fitbit(key, now):
    return text(key), {"X-Fitbit-Signature": b64(mac(key.secret + b"&", BODY, "sha1"))}, BODY


@provider("sellsy")
def sellsy(key, now):
    return text(key), {"X-Webhook-Signature": hashlib.sha1(key.secret + BODY).hexdigest()}, BODY


@provider("recharge")
def recharge(key, now):
    return text(key), {"X-Recharge-Hmac-Sha256": hashlib.sha256(key.secret + BODY).hexdigest()}, BODY


@provider("nango")
def nango(key, now):
    return text(key), {"X-Nango-Hmac-Sha256": mac(key.secret, BODY).hex()}, BODY


@provider("nango", variant="legacy")
def nango_legacy(key, now):
    return text(key), {"X-Nango-Signature": hashlib.sha256(key.secret + BODY).hexdigest()}, BODY


@provider("cloudinary", tolerance=7200)
def cloudinary(key, now):
    signature = hashlib.sha1(BODY + str(now).encode() + key.secret).hexdigest()
    return text(key), {"X-Cld-Timestamp": str(now), "X-Cld-Signature": signature}, BODY


@provider("box", tolerance=600)
def box(key, now):
    signed = mac(key.secret, BODY + iso(now).encode())
    headers = {"Box-Signature-Version": "1", "Box-Signature-Algorithm": "HmacSHA256", "Box-Delivery-Timestamp": iso(now)}
    headers |= {"Box-Signature-Primary": b64(bytes(32)), "Box-Signature-Secondary": b64(signed)}
    return {"primary": "another key", "secondary": text(key)}, headers, BODY


@provider("hygraph", tolerance=300)
def hygraph(key, now):
    signed = json.dumps({"Body": BODY.decode(), "EnvironmentName": "master", "TimeStamp": now * 1000}, separators=(",", ":"), ensure_ascii=False)
    signature = b64(mac(key.secret, signed.encode()))
    return text(key), {"gcms-signature": f"sign={signature}, env=master, t={now * 1000}"}, BODY


@provider("recurly", tolerance=300)
def recurly(key, now):
    ts = str(now * 1000)
    return text(key), {"recurly-signature": f"{ts},{'0' * 64},{mac(key.secret, f'{ts}.'.encode() + BODY).hex()}"}, BODY


@provider("ghost", tolerance=300)
def ghost(key, now):
    ts = str(now * 1000)
    return text(key), {"X-Ghost-Signature": f"sha256={mac(key.secret, BODY + ts.encode()).hex()}, t={ts}"}, BODY


@provider("ghost", variant="untimed")
def ghost_untimed(key, now):
    return text(key), {"X-Ghost-Signature": f"sha256={mac(key.secret, BODY).hex()}, t={now * 1000}"}, BODY


@provider("websub")
def websub(key, now):
    return text(key), {"X-Hub-Signature": "sha256=" + mac(key.secret, BODY).hex()}, BODY


@provider("websub", variant="sha1")
def websub_sha1(key, now):
    return text(key), {"X-Hub-Signature": "sha1=" + mac(key.secret, BODY, "sha1").hex()}, BODY


@provider("grafana", variant="timed", tolerance=300)
def grafana_timed(key, now):
    headers = {"X-Grafana-Alerting-Timestamp": str(now), "X-Grafana-Alerting-Signature": mac(key.secret, f"{now}:".encode() + BODY).hex()}
    return text(key), headers, BODY


@provider("flutterwave", variant="v4")
def flutterwave_v4(key, now):
    return text(key), {"flutterwave-signature": b64(mac(key.secret, BODY))}, BODY


@provider("standard_webhooks", variant="ed25519", tolerance=300)
def standard_webhooks_ed25519(key, now):
    signature = key.ed25519.sign(f"msg_1.{now}.".encode() + BODY)
    raw = key.ed25519.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": "v1a," + b64(signature)}
    return "whpk_" + b64(raw), headers, BODY


@provider("svix", tolerance=300)
def svix_under_its_other_names(key, now):
    signature = b64(mac(key.secret, f"msg_1.{now}.".encode() + BODY))
    return "whsec_" + b64(key.secret), {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": "v1," + signature}, BODY


@provider("mollie")
def mollie_during_a_rotation(key, now):
    return text(key), [["X-Mollie-Signature", "sha256=" + "0" * 64], ["X-Mollie-Signature", "sha256=" + mac(key.secret, BODY).hex()]], BODY


@provider("fireblocks", variant="v1")
def fireblocks_v1(key, now):
    return pem(key.rsa.public_key()), {"Fireblocks-Signature": b64(key.rsa.sign(BODY, padding.PKCS1v15(), hashes.SHA512()))}, BODY


# Fields of a JSON body.


@provider("linear", tolerance=60)
def linear(key, now):
    body = json.dumps({"action": "create", "webhookTimestamp": now * 1000}).encode()
    return text(key), {"Linear-Signature": mac(key.secret, body).hex()}, body


@provider("mailgun", tolerance=300, covers_body=False)
def mailgun(key, now):
    signature = {"timestamp": str(now), "token": "t" * 50, "signature": mac(key.secret, (str(now) + "t" * 50).encode()).hex()}
    return text(key), {"Content-Type": JSON}, json.dumps({"signature": signature, "event-data": {"event": "opened"}}).encode()


@provider("lever", covers_body=False)
def lever(key, now):
    signature = mac(key.secret, f"t-1{now}".encode()).hex()
    return text(key), {"Content-Type": JSON}, json.dumps({"token": "t-1", "triggeredAt": now, "signature": signature, "event": "e"}).encode()


def adyen_item(key, reference):
    item = {
        "pspReference": reference, "originalReference": "", "merchantAccountCode": "TestMerchant", "merchantReference": "P-1",
        "amount": {"value": 1130, "currency": "EUR"}, "eventCode": "AUTHORISATION", "success": "true",
    }
    signed = f"{reference}::TestMerchant:P-1:1130:EUR:AUTHORISATION:true"
    item["additionalData"] = {"hmacSignature": b64(mac(key.secret, signed.encode()))}
    return {"NotificationRequestItem": item}


@provider("adyen_payments", covers_body=None)
def adyen_payments(key, now):
    return key.secret.hex(), {"Content-Type": JSON}, json.dumps({"live": "false", "notificationItems": [adyen_item(key, "1"), adyen_item(key, "2")]}).encode()


@provider("aws_sns", covers_body=None)
def aws_sns(key, now):
    return sns(key, now, "2", hashes.SHA256())


@provider("aws_sns", covers_body=None)
def aws_sns_version_1(key, now):
    return sns(key, now, "1", hashes.SHA1())


def sns(key, now, version, hash_):
    message = {
        "Type": "Notification", "MessageId": "m-1", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Subject": "s", "Message": "a\nb",
        "Timestamp": iso(now), "SignatureVersion": version, "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
    }
    signed = "".join(f"{name}\n{message[name]}\n" for name in ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"])
    message["Signature"] = b64(key.rsa.sign(signed.encode(), padding.PKCS1v15(), hash_))
    return {"topic_arn": "arn:aws:sns:eu-west-1:1:t", "certificate": certificate(key)}, {"Content-Type": "text/plain"}, json.dumps(message).encode()


@provider("ms_graph", covers_body=None)
def ms_graph(key, now):
    return text(key), {"Content-Type": JSON}, json.dumps({"value": [{"clientState": text(key)}, {"clientState": text(key), "id": "2"}]}).encode()


@provider("figma", covers_body=None)
def figma(key, now):
    return text(key), {"Content-Type": JSON}, json.dumps({"passcode": text(key), "event_type": "PING"}).encode()


@provider("prismic", covers_body=None)
def prismic(key, now):
    return text(key), {"Content-Type": JSON}, json.dumps({"secret": text(key), "type": "api-update"}).encode()


@provider("azure_event_grid", covers_body=None)
def azure_event_grid(key, now):
    return text(key), {"Content-Type": JSON}, BODY, PATH + "&code=" + urllib.parse.quote(text(key))


# JSON Web Tokens.


def sha(enc):
    digest = hashlib.sha256(BODY).digest()
    return {"hex": digest.hex(), "base64": b64(digest), "base64url": b64url(digest)}[enc]


@provider("netlify")
def netlify(key, now):
    return text(key), {"X-Webhook-Signature": hs256({"iss": "netlify", "sha256": sha("hex")}, key)}, BODY


@provider("upstash_qstash", url=True, tolerance=0)
def upstash_qstash(key, now):
    claims = {"iss": "Upstash", "sub": URL, "exp": now + 10, "nbf": now - 10, "iat": now, "jti": "j", "body": sha("base64url") + "="}
    return text(key), {"Upstash-Signature": hs256(claims, key)}, BODY


@provider("vonage")
def vonage(key, now):
    return text(key), {"Authorization": "Bearer " + hs256({"iss": "Vonage", "iat": now, "payload_hash": sha("hex")}, key)}, BODY


@provider("messagebird", url=True, tolerance=0)
def messagebird(key, now):
    claims = {"iss": "MessageBird", "nbf": now - 10, "exp": now + 10, "url_hash": hashlib.sha256(URL.encode()).hexdigest(), "payload_hash": sha("hex")}
    return text(key), {"MessageBird-Signature-JWT": hs256(claims, key)}, BODY


@provider("livekit", tolerance=0)
def livekit(key, now):
    return text(key), {"Authorization": hs256({"iss": "api-key", "nbf": now - 10, "exp": now + 10, "sha256": sha("base64")}, key)}, BODY


@provider("fusionauth")
def fusionauth(key, now):
    return text(key), {"X-FusionAuth-Signature-JWT": hs256({"request_body_sha256": sha("base64")}, key)}, BODY


@provider("fusionauth", variant="public")
def fusionauth_public(key, now):
    return rsa_set(key, "RS256"), {"X-FusionAuth-Signature-JWT": rs({"request_body_sha256": sha("base64")}, key)}, BODY


@provider("atlassian_connect", covers_body=None, tolerance=0)
def atlassian_connect(key, now):
    canonical = "POST&/flexdeploy/webhooks/v1/in&a=1&data.id=ABC"
    claims = {"iss": "client", "iat": now - 10, "exp": now + 10, "qsh": hashlib.sha256(canonical.encode()).hexdigest()}
    return text(key), {"Authorization": "JWT " + hs256(claims, key)}, BODY


@provider("monday", covers_body=None, tolerance=0)
def monday(key, now):
    return text(key), {"Authorization": hs256({"iat": now - 10, "exp": now + 10}, key)}, BODY


@provider("frontegg", covers_body=None)
def frontegg(key, now):
    return text(key), {"x-webhook-secret": hs256({"iat": now}, key)}, BODY


@provider("google_pubsub_push", covers_body=None, tolerance=0)
def google_pubsub_push(key, now):
    claims = {"iss": "https://accounts.google.com", "aud": "me", "email": "push@example.iam.gserviceaccount.com", "email_verified": True, "iat": now - 10, "exp": now + 10}
    secret = {"audience": "me", "email": "push@example.iam.gserviceaccount.com", "keys": rsa_set(key, "RS256")}
    return secret, {"Authorization": "Bearer " + rs(claims, key)}, BODY


@provider("plaid", tolerance=300)
def plaid(key, now):
    def sign(message):
        r, s = decode_dss_signature(key.ecdsa.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        return r.to_bytes(32) + s.to_bytes(32)

    public = key.ecdsa.public_key().public_numbers()
    point = {"kty": "EC", "crv": "P-256", "kid": key.name, "alg": "ES256", "x": b64url(public.x.to_bytes(32)), "y": b64url(public.y.to_bytes(32))}
    signed = token({"iat": now, "request_body_sha256": sha("hex")}, sign, {"alg": "ES256", "kid": key.name, "typ": "JWT"})
    return json.dumps({"keys": [point]}), {"Plaid-Verification": signed}, BODY


@provider("fireblocks")
def fireblocks(key, now):
    head = b64url(json.dumps({"alg": "RS512", "kid": key.name}).encode())
    signature = key.rsa.sign(f"{head}.{b64url(BODY)}".encode(), padding.PKCS1v15(), hashes.SHA512())
    return rsa_set(key, "RS512"), {"Fireblocks-Webhook-Signature": f"{head}..{b64url(signature)}"}, BODY


@provider("wix")
def wix(key, now):
    return pem(key.rsa.public_key()), {"Content-Type": "text/plain"}, rs({"data": "{}", "exp": now + 10}, key).encode()


# Handshakes signed with a key pair.


def discord_handshakes(key):
    """Returns Discord's two pings: for interactions, and for webhook events."""
    raw = key.ed25519.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    pings = []
    for body, status, answer in [
        ('{"type":1}', 200, '{"type":1}'),
        ('{"version":1,"application_id":"1","type":0}', 204, ""),
    ]:
        signature = key.ed25519.sign(f"{NOW}{body}".encode()).hex()
        headers = {"X-Signature-Timestamp": str(NOW), "X-Signature-Ed25519": signature}
        pings.append({"secret": raw.hex(), "headers": headers, "body": body, "status": status, "answer": answer})
    return pings


def sns_confirmations(key, other):
    """Returns SNS subscription confirmations: a valid one, one with a foreign key, one with a foreign URL."""

    def message(by, url):
        message = {
            "Type": "SubscriptionConfirmation", "MessageId": "m-2", "Token": "t-1", "TopicArn": "arn:aws:sns:eu-west-1:1:t",
            "Message": "You have chosen to subscribe", "SubscribeURL": url, "Timestamp": iso(NOW), "SignatureVersion": "2",
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
        }
        names = ["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
        signed = "".join(f"{name}\n{message[name]}\n" for name in names)
        message["Signature"] = b64(by.rsa.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))
        return json.dumps(message)

    confirm = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t-1"
    return {
        "certificate": certificate(key),
        "good": message(key, confirm),
        "forged": message(other, confirm),
        "elsewhere": message(key, "https://evil.example.com/?Action=ConfirmSubscription&Token=t-1"),
    }
