// Makes signatures.json, with mainnet-js 3.1.7 and the libauth 3.1.0-next.8 that it brings:
//
//	npm install --no-save --ignore-scripts mainnet-js@3.1.7 && node signatures.mjs > signatures.json
//
// A signature by "mainnet-js" is what its SignedMessage.sign returns. One by "libauth" has the
// bytes of signMessageHashRecoverableCompact behind the header byte for an uncompressed public key.
// One by "none" has an r so small that r + the order of the curve is the x of a point: no wallet
// will ever make one, but libauth says whose it is. A private key is the SHA-256 of
// "key 1" and so on. A message is repeated as often as "repeat" says. Nonces are those of a verifier
// with a key of 32 bytes of 1 (protocol/SIGNIN.md §4).
import { createHmac } from "node:crypto";
import { SignedMessage } from "mainnet-js";
import { base64ToBin, binToBase64, encodeCashAddress, hash160, hexToBin, secp256k1, sha256, utf8ToBin } from "@bitauth/libauth";

const address = (publicKey, prefix = "bitcoincash") =>
  encodeCashAddress({ prefix, type: "p2pkh", payload: hash160(publicKey) }).address;
const nonce = (address, uri) =>
  createHmac("sha256", new Uint8Array(32).fill(1)).update(`memo.cash\n${uri}\n${address}\n2026-11-26T20:00:00Z`).digest("hex").slice(0, 16);
const text = (address, uri) => `memo.cash wants you to sign in with your Bitcoin Cash account:
${address}

URI: ${uri}
Version: 1
Chain ID: bch:bitcoincash
Nonce: ${nonce(address, uri)}
Issued At: 2026-11-26T20:00:00Z`;

const digest = (message) => base64ToBin(SignedMessage.sign(message, sha256.hash(utf8ToBin("any key"))).details.messageHash);

const rows = [];
for (let i = 1; i <= 12; i++) {
  const privateKey = sha256.hash(utf8ToBin(`key ${i}`));
  const compressed = address(secp256k1.derivePublicKeyCompressed(privateKey));
  const uncompressed = address(secp256k1.derivePublicKeyUncompressed(privateKey));
  const uri = "https://memo.cash/login" + "/long/way/in".slice(0, i);
  let message = text(compressed, uri);
  rows.push({ by: "mainnet-js", key: i, address: compressed, message, signature: SignedMessage.sign(message, privateKey).signature });
  message = text(uncompressed, uri);
  const made = secp256k1.signMessageHashRecoverableCompact(privateKey, digest(message));
  rows.push({ by: "libauth", key: i, address: uncompressed, message,
    signature: binToBase64(Uint8Array.from([27 + made.recoveryId, ...made.signature])) });
}
// Lengths about which writers of the length go wrong.
for (const length of [1, 15, 16, 252, 253, 254, 65535, 65536]) {
  const privateKey = sha256.hash(utf8ToBin(`key ${length}`));
  const message = "x".repeat(length);
  rows.push({ by: "mainnet-js", key: length, address: address(secp256k1.derivePublicKeyCompressed(privateKey)), repeat: length, message: "x",
    signature: SignedMessage.sign(message, privateKey).signature });
}
for (const header of [29, 30, 33, 34]) {
  for (let r = 1; ; r++) {
    const signature = hexToBin(r.toString(16).padStart(64, "0") + "1".repeat(64));
    const recover = header >= 31 ? secp256k1.recoverPublicKeyCompressed : secp256k1.recoverPublicKeyUncompressed;
    const publicKey = recover(signature, (header - 27) & 3, digest("small r"));
    if (typeof publicKey === "string") continue;
    rows.push({ by: "none", address: address(publicKey), message: "small r", signature: binToBase64(Uint8Array.from([header, ...signature])) });
    break;
  }
}
console.log(JSON.stringify(rows, null, "\t"));
