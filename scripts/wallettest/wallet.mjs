// A wallet for tests. It reads one request a line, signs it as Cashonize or Paytaca do, and
// writes one answer a line. What it does with a request is what these wallets do: read the
// object with their own expressions, find the inputs that are the key's, have libauth sign
// them.
//
// Request: {"wallet", "privateKey": HEX, "params"}. Wallets are cashonize, paytaca (both over
// WalletConnect), cashonize-wizard and paytaca-wizard. Params are what keytree gives.
// Answer: {"signedTransaction": HEX, "signedTransactionHash": TXID} or {"error": TEXT}.
import { createInterface } from 'node:readline';
import {
  binToHex, decodeTransaction, encodeDataPush, encodeTransaction, flattenBinArray, generateSigningSerializationBCH, generateTransaction,
  hash256, hexToBin, importWalletTemplate, privateKeyToP2pkhLockingBytecode, secp256k1, walletTemplateP2pkhNonHd,
  walletTemplateToCompilerBCH,
} from '@bitauth/libauth';

// parseExtendedJson is that of the wallets: nothing but these two forms is read.
const uint8Array = /^<Uint8Array: 0x(?<hex>[0-9a-f]*)>$/u;
const bigint = /^<bigint: (?<bigint>[0-9]*)n>$/;
const parseExtendedJson = (text) => JSON.parse(text, (_, value) => {
  if (typeof value !== 'string') return value;
  const number = value.match(bigint);
  if (number) return BigInt(number[1]);
  const bytes = value.match(uint8Array);
  return bytes ? hexToBin(bytes[1]) : value;
});

const template = importWalletTemplate(walletTemplateP2pkhNonHd);
if (typeof template === 'string') throw new Error(template);
const compiler = walletTemplateToCompilerBCH(template); // of signatures with hash type 0x41

// unlockOverAll signs an input with hash type 0x61, over what all inputs spend. libauth's
// compiler cannot: it is told of no other input's output.
const unlockOverAll = (key, transaction, sourceOutputs, inputIndex) => {
  const signingSerializationType = Uint8Array.of(0x61);
  const serialization = generateSigningSerializationBCH(
    { inputIndex, sourceOutputs, transaction },
    { coveredBytecode: sourceOutputs[inputIndex].lockingBytecode, signingSerializationType },
  );
  const signature = secp256k1.signMessageHashSchnorr(key, hash256(serialization));
  const publicKey = secp256k1.derivePublicKeyCompressed(key);
  for (const made of [signature, publicKey]) if (typeof made === 'string') throw new Error(made);
  return flattenBinArray([
    encodeDataPush(flattenBinArray([signature, signingSerializationType])), encodeDataPush(publicKey),
  ]);
};

const bytes = (value, size, name) => {
  if (!(value instanceof Uint8Array) || (size && value.length !== size)) throw new Error(`${name} is no Uint8Array of ${size ?? 'any'} bytes`);
};

// checkSourceOutputs is what the schemas of the wallets ask for.
const checkSourceOutputs = (sourceOutputs, inputs) => {
  if (sourceOutputs.length !== inputs.length) throw new Error('sourceOutputs are not aligned with the inputs');
  sourceOutputs.forEach((output, i) => {
    bytes(output.outpointTransactionHash, 32, 'outpointTransactionHash');
    bytes(output.lockingBytecode, undefined, 'lockingBytecode');
    bytes(output.unlockingBytecode, undefined, 'unlockingBytecode');
    if (typeof output.valueSatoshis !== 'bigint') throw new Error('valueSatoshis is no bigint');
    if (!Number.isInteger(output.outpointIndex) || !Number.isInteger(output.sequenceNumber)) throw new Error('outpointIndex or sequenceNumber is no number');
    if (binToHex(output.outpointTransactionHash) !== binToHex(inputs[i].outpointTransactionHash)) throw new Error('another outpoint');
  });
};

const decode = (text) => {
  const decoded = decodeTransaction(hexToBin(text));
  if (typeof decoded === 'string') throw new Error(decoded);
  return decoded;
};

// unsigned returns the transaction of a request as the wallet reads it.
const unsigned = (wallet, transaction) => {
  switch (wallet) {
    case 'cashonize': // takes both
    case 'cashonize-wizard':
      return typeof transaction === 'string' ? decode(transaction) : transaction;
    case 'paytaca': // maps over the inputs of the object
      return { ...transaction, inputs: transaction.inputs.map((input) => ({ ...input })) };
    case 'paytaca-wizard': // calls hexToBin on it
      return decode(transaction);
  }
  throw new Error(`unknown wallet ${wallet}`);
};

const sign = ({ wallet, privateKey, params: text }) => {
  const wizard = wallet.endsWith('-wizard');
  const request = parseExtendedJson(JSON.stringify(text));
  const params = wizard ? request.transaction : request;
  if (params.broadcast !== false) throw new Error('broadcast is not false');
  if (typeof params.userPrompt !== 'string' || params.userPrompt === '') throw new Error('there is no userPrompt');
  const transaction = unsigned(wallet, params.transaction);
  checkSourceOutputs(params.sourceOutputs, transaction.inputs);
  if (wizard) {
    // Each input is signed by the key that the request names.
    const named = request.inputPaths.map(([input, name, index]) => `${input} ${typeof name} ${Number.isInteger(index)}`).join();
    const want = transaction.inputs.map((_, i) => `${i} string true`).join();
    if (named !== want) throw new Error(`inputPaths name ${named}, want ${want}`);
  }
  const key = hexToBin(privateKey);
  const own = privateKeyToP2pkhLockingBytecode({ privateKey: key, throwErrors: true });
  const inputs = transaction.inputs.map((input, i) => {
    const source = params.sourceOutputs[i];
    if (source.unlockingBytecode.length > 0 || binToHex(source.lockingBytecode) !== binToHex(own)) return input;
    if (wallet === 'cashonize-wizard') {
      return { ...input, unlockingBytecode: unlockOverAll(key, transaction, params.sourceOutputs, i) };
    }
    return {
      ...input,
      unlockingBytecode: {
        compiler, script: 'unlock', valueSatoshis: source.valueSatoshis, token: source.token, data: { keys: { privateKeys: { key } } },
      },
    };
  });
  const generated = generateTransaction({ ...transaction, inputs });
  if (!generated.success) throw new Error(generated.errors.map(({ error }) => error).join('; '));
  const raw = encodeTransaction(generated.transaction);
  return { signedTransaction: binToHex(raw), signedTransactionHash: binToHex(hash256(raw).reverse()) };
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = sign(JSON.parse(line));
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  console.log(JSON.stringify(answer));
}
