#!/usr/bin/env python3
"""Recomputes session.json from SPEC.md, sharing no code with the package.

Needs Python 3 and the openssl command (AES-CTR)."""
import base64, hashlib, hmac, json, os, subprocess

v = json.load(open(os.path.join(os.path.dirname(__file__), "session.json")))
un = base64.b64decode
H = lambda *parts: hashlib.sha512(b"".join(parts)).digest()
L = lambda x: b"keytree session 1: NACL HKDF AES256-CTR SHA512-HMAC ED25519 ECDHE25519: " + x
P = 2**255 - 19


def x25519(k, u):  # RFC 7748 §5
    k = int.from_bytes(bytes([k[0] & 248]) + k[1:31] + bytes([k[31] & 127 | 64]), "little")
    x1 = int.from_bytes(u, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3, x2, z2 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P, aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public(k):
    return x25519(k, bytes([9]) + bytes(31))


def extract(salt, secret):
    return hmac.new(salt, secret, hashlib.sha512).digest()


def expand(key, info, size):  # RFC 5869 §2.3
    out, last, i = b"", b"", 1
    while len(out) < size:
        last = hmac.new(key, last + info + bytes([i]), hashlib.sha512).digest()
        out, i = out + last, i + 1
    return out[:size]


def box(key, plain):
    enc, iv, mac = key[:32], key[32:48], key[48:]
    c = subprocess.run(["openssl", "enc", "-aes-256-ctr", "-K", enc.hex(), "-iv", iv.hex()],
                       input=plain, stdout=subprocess.PIPE, check=True).stdout
    return c + hmac.new(mac, c, hashlib.sha512).digest()


def padded(fields):
    c = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
    c = len(c).to_bytes(4, "big") + c
    return c + bytes(-len(c) % 4096)


def content(letter):
    return {"MESSAGE": base64.b64encode(letter["text"].encode()).decode(),
            "MIXADDRESS": letter["mixaddress"], "NYMADDRESS": letter["nymaddress"]}


def check(name, got, want):
    assert got == un(want), name
    print(name, "agrees,", len(got), "bytes")


a, k, t = un(v["alice_long_term_private"]), un(v["alice_keyinit_private"]), un(v["alice_session_private"])
b, s = un(v["bob_long_term_private"]), un(v["bob_session_private"])
A, K, T, B, S = map(public, (a, k, t, b, s))
alice = json.loads(v["alice_uid_message"])["UIDContent"]
assert un(alice["PUBKEYS"][0]["PUBKEY"]) == A

# The first message.
digest = hashlib.sha256(json.dumps(json.loads(v["keyinit"])["Contents"], separators=(",", ":"), sort_keys=True).encode()).digest()
header = b"KTS1" + bytes([1]) + digest + S
p1 = extract(H(L(b"key agreement"), header, K, A), x25519(s, K) + x25519(s, A))
sender = box(expand(p1, L(b"sender") + H(header, K, A), 112), B)
p2 = extract(p1, x25519(b, K))
fields = content(v["first"])
fields["RECIPIENT"] = alice["IDENTITY"]
fields["UIDMESSAGES"] = [json.loads(m) for m in v["bob_uid_messages"]]
body = box(expand(p2, L(b"first content") + H(header, K, A, sender), 112), padded(fields))
check("first message", header + sender + body, v["first"]["message"])

root = expand(p2, L(b"root") + H(header, K, A, sender, body), 64)
session = expand(root, L(b"session ID"), 32)
check("session ID", session, v["session_id"])

# The answer.
header = b"KTS1" + bytes([2]) + session + T
p3 = extract(root, x25519(t, S) + x25519(t, B))
answer = header + box(expand(p3, L(b"answer content") + H(header), 112), padded(content(v["answer"])))
check("answer", answer, v["answer"]["message"])
