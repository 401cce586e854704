/**
 * keytree.js asks a keytree server, from a page or from Node: which identity is behind a
 * Bitcoin Cash address, what changes, and who signs in; and checks what is proven. It is one file without dependencies,
 * which every server has at /keytree.js:
 *
 *     import { Keytree } from "https://keytree.example/keytree.js";
 *
 *     const keytree = new Keytree("https://keytree.example");
 *     const { id_tx_hash, main_address } = await keytree.resolve(address);
 *
 * README.md beside it has more, with examples. Answers are what REST gives, with its names; /docs
 * of the server says what they mean. 64-bit numbers are strings. A Keytree may be used by all of a page at a time.
 *
 * It needs what browsers have since 2024, or Node 20. What it uses beyond that it does
 * without where it is missing: on plain http beyond loopback there are no locks, so each tab
 * has a stream of its own.
 *
 * @module
 */
export type Resolution = {
    /**
     * CashAddr with prefix.
     */
    address: string;
    /**
     * The identity; "" for a key that was never in a link.
     */
    id_tx_hash: string;
    /**
     * The root of the key's tree; the key itself if it has no parent.
     */
    main_address: string;
    /**
     * "" for a key without a parent.
     */
    parent_address: string;
    /**
     * From the key up to the root, the first 100; empty unless asked for.
     */
    path: string[];
    path_truncated: boolean;
    /**
     * Links between the key and the root.
     */
    depth: number;
    /**
     * The MLA of the link to the parent.
     */
    accept_tx_hash: string;
    as_of_height: number;
    as_of_hash: string;
    /**
     * What would differ, if that was asked for and something would.
     */
    unconfirmed?: Unconfirmed | null;
};
export type Unconfirmed = {
    available: boolean;
    /**
     * Why it is not available.
     */
    reason: string;
    height: number;
    differs: boolean;
    by: {
        tx_hash: string;
        double_spend: boolean;
        seen_ago?: number | null;
    }[];
    more: boolean;
    resolution?: Resolution | null;
    identity?: Identity | null;
    keys?: Resolution[];
    actions?: Action[];
    requests?: LinkRequest[];
    links?: ChildLink[];
};
export type Identity = {
    id_tx_hash: string;
    state: "CURRENT" | "MERGED" | "UNCONFIRMED" | (string & {});
    merged_into: string;
    main_address: string;
    key_count: number;
    named_by: {
        tx_hash: string;
        height: number;
    } | null;
    as_of_height: number;
    as_of_hash: string;
    unconfirmed?: Unconfirmed | null;
};
export type IdentityKey = {
    address: string;
    parent_address: string;
    depth: number;
    accept_tx_hash: string;
    linked_height: number;
};
export type Action = {
    tx_hash: string;
    kind: string;
    author_address: string;
    child_address: string;
    parent_address: string;
    reference: string;
    ref_tx_hash: string;
    /**
     * What its author wrote: show it as that person's word alone.
     */
    message: string;
    message_hex: string;
    state: string;
    reason: string;
    height: number;
    tx_index: number;
    decided_height: number;
    by_tx_hash: string;
    as_of_height: number;
    as_of_hash: string;
    unconfirmed?: Unconfirmed | null;
};
export type LinkRequest = {
    tx_hash: string;
    child_address: string;
    /**
     * What a stranger wrote: show it as that person's word alone.
     */
    message: string;
    message_hex: string;
    state: string;
    reason: string;
    height: number;
    tx_index: number;
    decided_height: number;
    accept_tx_hash: string;
    revoke_tx_hash: string;
    pending?: {
        tx_hash: string;
        double_spend: boolean;
        seen_ago?: number | null;
    } | null;
};
export type ChildLink = {
    child_address: string;
    accept_tx_hash: string;
    linked_height: number;
    state: string;
    has_links: boolean;
};
export type SignedIn = {
    address: string;
    /**
     * An app's account is this identity's, or the address's while there is none.
     */
    id_tx_hash: string;
    main_address: string;
    path: string[];
    path_truncated: boolean;
    depth: number;
    as_of_height: number;
    as_of_hash: string;
    /**
     * What is pending for its
     * place: take a key as cut off whose cut is pending.
     */
    pending: {
        available: boolean;
        reason: string;
        cut: boolean;
        link: boolean;
    } | null;
};
export type AsOf = {
    /**
     * As of which block; left out, the tip.
     */
    atHeight?: number;
    /**
     * Whether to say as well what would differ by what is pending.
     */
    unconfirmed?: boolean;
    /**
     * Whether a resolution has its path; left out, as the Keytree's options say.
     */
    paths?: boolean;
    /**
     * Ends the call.
     */
    signal?: AbortSignal;
};
export type Options = {
    /**
     * What asks; left out, the page's own.
     */
    fetch?: typeof fetch;
    /**
     * Whether resolutions have their path.
     */
    paths?: boolean;
    /**
     * How many resolutions are remembered; 0 for none. Default 50,000.
     */
    cacheSize?: number;
    /**
     * For how many milliseconds what is remembered needs no check. Default 5,000.
     */
    maxAge?: number;
    /**
     * How often a call is repeated whose connection is lost, or which the
     * server has no time for. Default 2.
     */
    retries?: number;
    /**
     * How many milliseconds the first repetition waits at most. Default 1,000;
     * each further one waits twice as long, up to 60 times that.
     */
    backoff?: number;
    /**
     * For how many milliseconds a call may go on. Default 30,000.
     */
    timeout?: number;
    /**
     * Whether tabs share one stream. Default true.
     */
    share?: boolean;
    /**
     * How often, in milliseconds, a server of an earlier version, which has no
     * streams, is asked what changed. Default 10,000.
     */
    pollEvery?: number;
};
/**
 * KeytreeError is what a call ends with that is not answered: by the server's error, or with
 * the code UNAVAILABLE and the status 0 if the server could not be reached.
 */
export declare class KeytreeError extends Error {
    /** The code of gRPC, as INVALID_ARGUMENT. */
    code: string;
    /** The HTTP status; 0 if no answer came. */
    status: number;
    /** The field of the request that is wrong, as addresses[3]; "" if none is named. */
    field: string;
    /** Why, in a word of a fixed set; "" if there is none. */
    reason: string;
    /** After how many seconds to try again; 0 if the server does not say. */
    retryAfter: number;
    /**
     * @param {string} message
     * @param {{ code?: string, status?: number, field?: string, reason?: string, retryAfter?: number, cause?: unknown }} [of]
     */
    constructor(message: string, { code, status, field, reason, retryAfter, cause }?: {
        code?: string;
        status?: number;
        field?: string;
        reason?: string;
        retryAfter?: number;
        cause?: unknown;
    });
}
/** Keytree is a server, with what was learned from it. */
export declare class Keytree {
    #private;
    /**
     * @param {string | URL} url Of the server, as https://keytree.example.
     * @param {Options} [options]
     */
    constructor(url: string | URL, options?: Options);
    /**
     * resolve tells which identity is behind an address. What is asked within one tick is asked in
     * one request. What is known as of an earlier block is only checked. The answer is shared:
     * it cannot be changed.
     * @param {string} address CashAddr, with or without prefix, or legacy.
     * @param {AsOf} [asOf]
     * @returns {Promise<Readonly<Resolution>>}
     */
    resolve(address: string, asOf?: AsOf): Promise<Readonly<Resolution>>;
    /** status tells what the server has indexed. @param {AsOf} [asOf] @returns {Promise<any>} */
    status({ signal }?: AsOf): Promise<any>;
    /** identity describes an identity. @param {string} id @param {AsOf} [asOf] @returns {Promise<Identity>} */
    identity(id: string, asOf?: AsOf): Promise<Identity>;
    /**
     * proveAddress asks for the state proof of a key, for verifyStateProof or to be kept: left out, as of the newest
     * block that a cosigned checkpoint covers, which is not the tip.
     * @param {string} address
     * @param {ProofOf} [of]
     * @returns {Promise<StateProof>}
     */
    proveAddress(address: string, { atHeight, transactions, signal }?: ProofOf): Promise<StateProof>;
    /** proveAddresses asks for one state proof of up to 1,000 keys. @param {string[]} addresses @param {ProofOf} [of] @returns {Promise<StateProof>} */
    proveAddresses(addresses: string[], { atHeight, transactions, signal }?: ProofOf): Promise<StateProof>;
    /** proveIdentity asks for the state proof of an identity's id. @param {string} id @param {Omit<ProofOf, "transactions">} [of] @returns {Promise<StateProof>} */
    proveIdentity(id: string, { atHeight, signal }?: Omit<ProofOf, "transactions">): Promise<StateProof>;
    /**
     * resolveProven tells which identity is behind an address, and believes nothing of the server that it has not proven
     * by a policy (see verifyStateProof). It throws a StateProofError, with the reason DIFFERS if the server's answer
     * as of that block is another than what it has proven. What came after that block is not in it.
     * @param {string} address CashAddr.
     * @param {Believing} options
     * @returns {Promise<{ state: ProvenState, key: ProvenKey, resolution: Readonly<Resolution> }>} The resolution is as of the
     *   proven block.
     */
    resolveProven(address: string, { policy, atHeight, maxAge, signal }: Believing): Promise<{
        state: ProvenState;
        key: ProvenKey;
        resolution: Readonly<Resolution>;
    }>;
    /**
     * identityProven describes an identity as resolveProven does a key. An id that names nothing, which the server has
     * to prove as well, has no answer beside it.
     * @param {string} id
     * @param {Believing} options
     * @returns {Promise<{ state: ProvenState, proven: ProvenIdentity, identity?: Identity }>}
     */
    identityProven(id: string, { policy, atHeight, maxAge, signal }: Believing): Promise<{
        state: ProvenState;
        proven: ProvenIdentity;
        identity?: Identity;
    }>;
    /** action tells what has become of an action. @param {string} tx @param {AsOf} [asOf] @returns {Promise<Action>} */
    action(tx: string, asOf?: AsOf): Promise<Action>;
    /** keys lists the keys of an identity, from its root on. @param {string} id @param {AsOf} [asOf] @returns {AsyncGenerator<IdentityKey>} */
    keys(id: string, asOf?: AsOf): AsyncGenerator<IdentityKey>;
    /** history lists the actions by and about a key, the first one first. @param {string} address @param {AsOf} [asOf] @returns {AsyncGenerator<Action>} */
    history(address: string, asOf?: AsOf): AsyncGenerator<Action>;
    /**
     * requests lists the link requests that name a key as the parent, the newest first: what its
     * wallet may accept.
     * @param {string} address
     * @param {AsOf & { state?: "open" | "accepted" | "cut" | "refused" | "all" }} [asOf]
     * @returns {AsyncGenerator<LinkRequest>}
     */
    requests(address: string, asOf?: AsOf & {
        state?: "open" | "accepted" | "cut" | "refused" | "all";
    }): AsyncGenerator<LinkRequest>;
    /** links lists the links directly below a key: what its wallet may revoke. @param {string} address @param {AsOf} [asOf] @returns {AsyncGenerator<ChildLink>} */
    links(address: string, asOf?: AsOf): AsyncGenerator<ChildLink>;
    /**
     * prepareLink makes the transaction of an action for a wallet to sign: params are what it is
     * asked with.
     * @param {{ kind: "MLR" | "MLA" | "MCR", author_address: string, parent_address?: string, ref_tx_hash?: string, message?: string,
     *   coins?: { tx_hash: string, output_index: number, value_satoshi: string }[], fee_rate?: number,
     *   format?: "walletconnect" | "wizardconnect" | "hex", key_path?: string }} request
     * @param {{ signal?: AbortSignal }} [options]
     * @returns {Promise<{ params: any, facts: { kind: string, author_address: string, counterpart_address: string, says: string,
     *   fee_satoshi: string, change_satoshi: string, expected: string } }>}
     */
    prepareLink(request: {
        kind: "MLR" | "MLA" | "MCR";
        author_address: string;
        parent_address?: string;
        ref_tx_hash?: string;
        message?: string;
        coins?: {
            tx_hash: string;
            output_index: number;
            value_satoshi: string;
        }[];
        fee_rate?: number;
        format?: "walletconnect" | "wizardconnect" | "hex";
        key_path?: string;
    }, { signal }?: {
        signal?: AbortSignal;
    }): Promise<{
        params: any;
        facts: {
            kind: string;
            author_address: string;
            counterpart_address: string;
            says: string;
            fee_satoshi: string;
            change_satoshi: string;
            expected: string;
        };
    }>;
    /**
     * submitLink sends what a wallet has signed. Sent twice is success twice.
     * @param {string} signedTransaction In hex.
     * @param {{ force?: boolean, signal?: AbortSignal }} [options] Force sends what would be refused.
     * @returns {Promise<{ tx_hash: string, kind: string, known: boolean, expected: string }>}
     */
    submitLink(signedTransaction: string, { force, signal }?: {
        force?: boolean;
        signal?: AbortSignal;
    }): Promise<{
        tx_hash: string;
        kind: string;
        known: boolean;
        expected: string;
    }>;
    /**
     * challenge makes the text that a key is to sign now, to sign in (protocol/SIGNIN.md). The
     * app keeps it for this browser's session.
     * @param {{ domain: string, uri: string, address: string, allow_long?: boolean }} request
     * @param {{ signal?: AbortSignal }} [options]
     * @returns {Promise<{ message: string, nonce: string, expires_at: string }>}
     */
    challenge(request: {
        domain: string;
        uri: string;
        address: string;
        allow_long?: boolean;
    }, { signal }?: {
        signal?: AbortSignal;
    }): Promise<{
        message: string;
        nonce: string;
        expires_at: string;
    }>;
    /**
     * verify tells who has signed a challenge. It can be told once: so it is not asked again if
     * the connection is lost. It is for an app's server, whose domain is a constant, and which has
     * kept the message: what a browser says of itself proves nothing.
     * @param {{ message: string, signature: string, domain: string, max_depth?: number, root_only?: boolean, allow_long?: boolean }} request
     * @param {{ signal?: AbortSignal }} [options]
     * @returns {Promise<SignedIn>}
     */
    verify(request: {
        message: string;
        signature: string;
        domain: string;
        max_depth?: number;
        root_only?: boolean;
        allow_long?: boolean;
    }, { signal }?: {
        signal?: AbortSignal;
    }): Promise<SignedIn>;
    /**
     * session watches over a key that has signed in, until it is cut off from its identity or
     * close is called. All sessions have one stream.
     * @param {{ address: string, id_tx_hash: string, main_address: string }} who As verify tells.
     * @param {Watcher} watcher
     * @returns {Session}
     */
    session(who: {
        address: string;
        id_tx_hash: string;
        main_address: string;
    }, watcher: Watcher): Session;
    /**
     * stream tells what changes, from the first message taken on, which is "open". Lost connections are made
     * again, and nothing is missed by that. All streams of a page, and of all tabs of its origin, are
     * one: then blocks may have events of others' filters as well. It goes on until the loop is
     * left, or the signal comes, whose reason is thrown. Without fromHeight and lastId it ends when the
     * server has no more to tell.
     * @param {Filter & { fromHeight?: number, lastId?: string, signal?: AbortSignal }} [filter] fromHeight and
     *   lastId begin a stream of its own earlier: with a block, or after a message.
     * @returns {AsyncGenerator<Message>}
     */
    stream({ addresses, ids, unconfirmed, fromHeight, lastId, signal }?: Filter & {
        fromHeight?: number;
        lastId?: string;
        signal?: AbortSignal;
    }): AsyncGenerator<Message>;
}
export type Asked = {
    asOf: AsOf;
    /**
     * By address; from when it is asked until it is answered.
     */
    answers: Map<string, PromiseWithResolvers<Resolution>>;
    /**
     * What no request was sent for.
     */
    queue: string[];
};
export type Filter = {
    /**
     * Up to 10,000, as CashAddr.
     */
    addresses?: string[];
    /**
     * Of identities, up to 10,000.
     */
    ids?: string[];
    /**
     * Whether to tell of what is pending as well.
     */
    unconfirmed?: boolean;
};
export type Message = {
    /**
     * Open: from
     * now on you are told; read what you need now. Connect and disconnect: a block. Pending and
     * drop: a transaction. Fault: something is wrong, which passes; only after OUTDATED_CURSOR and
     * CONSUMER_TOO_SLOW must you read again what you have.
     */
    type: "open" | "connect" | "disconnect" | "pending" | "drop" | "fault";
    /**
     * Names what you have now: with lastId a later stream goes on there. "" if
     * nothing about that has changed.
     */
    id: string;
    /**
     * A WatchResponse, as /docs of the server says, or a StreamFault.
     */
    data?: any;
    /**
     * Whether it was found by asking again and again, since the server is of
     * an earlier version: then there are no pending messages, and blocks that do not concern you.
     */
    polled?: boolean;
};
export type Told = Omit<Message, "type"> & {
    type: Message["type"] | "heartbeat";
};
export type Ended = {
    /**
     * Whether what cut the key off is not confirmed yet. Take it as cut off all the same.
     */
    pending: boolean;
    /**
     * The pending transactions that do so.
     */
    by: string[];
    /**
     * What the key is then.
     */
    resolution: Readonly<Resolution>;
};
export type Watcher = {
    /**
     * Called when the key is cut off from its identity: at once, with
     * pending, while that is unconfirmed, and when it is confirmed. Then the session is over.
     */
    onEnded: (ended: Ended) => void;
    /**
     * Called when what was pending will not be confirmed after all.
     */
    onRestored?: () => void;
};
/**
 * @typedef {object} Ended How a session has ended.
 * @property {boolean} pending Whether what cut the key off is not confirmed yet. Take it as cut off all the same.
 * @property {string[]} by The pending transactions that do so.
 * @property {Readonly<Resolution>} resolution What the key is then.
 */
/**
 * @typedef {object} Watcher Whom a session calls.
 * @property {(ended: Ended) => void} onEnded Called when the key is cut off from its identity: at once, with
 *   pending, while that is unconfirmed, and when it is confirmed. Then the session is over.
 * @property {() => void} [onRestored] Called when what was pending will not be confirmed after all.
 */
/** Session watches whether a key that has signed in still belongs to its identity. */
declare class Session {
    #private;
    /** The key. */
    address: string;
    /** The identity that it speaks for, which changes when that merges; "" while there is none. */
    id_tx_hash: string;
    /** The root of that. */
    main_address: string;
    /**
     * @param {{ address: string, id_tx_hash: string, main_address: string }} who
     * @param {Watcher} watcher
     * @param {{ stream: (signal: AbortSignal) => AsyncGenerator<Message>, now: (signal: AbortSignal) => Promise<Readonly<Resolution>>, backoff: number }} asks
     */
    constructor({ address, id_tx_hash, main_address }: {
        address: string;
        id_tx_hash: string;
        main_address: string;
    }, watcher: Watcher, asks: {
        stream: (signal: AbortSignal) => AsyncGenerator<Message>;
        now: (signal: AbortSignal) => Promise<Readonly<Resolution>>;
        backoff: number;
    });
    /** close ends the watch. Nobody is called any more. */
    close(): void;
}
/**
 * decodeAddress reads a CashAddr, with or without prefix, of any kind. It throws a KeytreeError
 * that says what is wrong with another text.
 * @param {string} address
 * @returns {{ prefix: string, kind: string, tokens: boolean, hash: Uint8Array }} Tokens tells
 *   whether it takes them.
 */
export declare function decodeAddress(address: string): {
    prefix: string;
    kind: string;
    tokens: boolean;
    hash: Uint8Array;
};
export type Point = [bigint, bigint, bigint];
/**
 * signerOf returns the hash of the public key that signed a message, 20 bytes: of a recoverable
 * ECDSA signature in base64, as wallets give for bch_signMessage (protocol/SIGNIN.md §3). There
 * is one for nearly every signature, so compare it with the one expected, or call verifyMessage.
 * It throws a KeytreeError that says what is wrong with a signature.
 * @param {string} message
 * @param {string} signature
 * @returns {Uint8Array}
 */
export declare function signerOf(message: string, signature: string): Uint8Array;
/**
 * verifyMessage tells whether the key of an address signed a message, as wallets do for
 * bch_signMessage. A signature in another form is none.
 * @param {{ address: string, message: string, signature: string }} signed
 * @returns {boolean}
 */
export declare function verifyMessage({ address, message, signature }: {
    address: string;
    message: string;
    signature: string;
}): boolean;
/**
 * sha256 is here because pages on plain http beyond loopback have no WebCrypto, and because WebCrypto's takes
 * longer for the many short texts of a state proof.
 * @param {Uint8Array} bytes
 * @returns {Uint8Array}
 */
export declare function sha256(bytes: Uint8Array): Uint8Array;
/** @param {Uint8Array} bytes @returns {Uint8Array} */
export declare function ripemd160(bytes: Uint8Array): Uint8Array;
export type KeyRecord = {
    address: string;
    /**
     * "" for a root.
     */
    parent_address: string;
    /**
     * The MLA of the link to the parent; "" for a root.
     */
    accept_tx_hash: string;
    /**
     * Of the tree of which the key is the root; "" for another key.
     */
    id_tx_hash: string;
    /**
     * Of the last block that changed this.
     */
    height: number;
};
export type IDRecord = {
    id_tx_hash: string;
    /**
     * The id that it merged into; "" if it is current.
     */
    merged_into: string;
    /**
     * The root of its tree; "" if it has merged.
     */
    main_address: string;
};
export type ProvenKey = {
    kind: "key";
    address: string;
    /**
     * Whether it was ever in a link; undefined if the proof does not come to it.
     */
    found: boolean | undefined;
    /**
     * Whether the way up is longer than what a proof may show: then the root and the identity are not proven.
     */
    cut: boolean;
    /**
     * "" for a key without a parent.
     */
    parent_address: string;
    /**
     * From the key up to the root, or as far as it is proven.
     */
    path: string[];
    /**
     * The root; the key itself if it has no parent; "" if that is not proven.
     */
    main_address: string;
    /**
     * The identity; "" for a key that was never in a link, or if that is not proven.
     */
    id_tx_hash: string;
    /**
     * The MLA of the link to the parent.
     */
    accept_tx_hash: string;
    /**
     * From the key's up to the root's; none if it was never in a link.
     */
    records: KeyRecord[];
};
export type ProvenIdentity = {
    kind: "identity";
    id_tx_hash: string;
    /**
     * Whether it ever named an identity; undefined if the proof does not come to it.
     */
    found: boolean | undefined;
    /**
     * Whether it has merged more often than a proof may show: then what it is now is not proven.
     */
    cut: boolean;
    /**
     * "" if it was not found.
     */
    state: "CURRENT" | "MERGED" | "";
    /**
     * The identity that it is part of now; "" if it is current, or if that is not proven.
     */
    merged_into: string;
    /**
     * The root of the identity that it is or is part of; "" if that is not proven.
     */
    main_address: string;
    /**
     * From the id's to that of the identity that it is part of now.
     */
    records: IDRecord[];
};
export type ShownTransaction = {
    tx_hash: string;
    kind: "MLA" | "MLR";
    /**
     * Of its block.
     */
    height: number;
    /**
     * Of its block, which is the one that the state log has at that height.
     */
    block_hash: string;
    tx_index: number;
};
export type ProvenState = {
    network: string;
    as_of_height: number;
    /**
     * Whether that block is on the best chain is the witnesses' word.
     */
    as_of_hash: string;
    /**
     * After the block (protocol/SPEC.md §9).
     */
    state_hash: string;
    /**
     * After the block (protocol/SPEC.md §12).
     */
    state_root: string;
    /**
     * The name of the state log.
     */
    log: string;
    /**
     * Of the block's entry.
     */
    log_index: string;
    /**
     * Of the checkpoint.
     */
    log_size: string;
    /**
     * The witnesses that have cosigned it, by the names that the policy gives them.
     */
    cosigners: string[];
    /**
     * The latest time at which, or later, as many witnesses as the policy asks for have
     * cosigned it, in Unix seconds; 0 if it asks for none.
     */
    cosigned_at: number;
    /**
     * Whether that is longer ago than maxAge, or not known: what is proven may have changed since.
     */
    old: boolean;
    subjects: (ProvenKey | ProvenIdentity)[];
    transactions: ShownTransaction[];
    /**
     * What a server says of an identity, and no such file can show.
     */
    unproven: string[];
};
export type VerifyOptions = {
    /**
     * Of what keys it must be a proof, as CashAddr.
     */
    addresses?: string[];
    /**
     * Of what ids.
     */
    ids?: string[];
    /**
     * After how many milliseconds a cosignature is old. Default a day.
     */
    maxAge?: number;
    /**
     * The time in milliseconds; left out, the clock's.
     */
    now?: number;
};
export type ProofOf = {
    /**
     * As of which block.
     */
    atHeight?: number;
    /**
     * Whether to bring the MLAs and MLRs of the links along.
     */
    transactions?: boolean;
    /**
     * Ends the call.
     */
    signal?: AbortSignal;
};
export type Believing = {
    /**
     * Whom to believe (C2SP's tlog-policy).
     */
    policy: string;
    /**
     * As of which block; left out, the newest that can be proven.
     */
    atHeight?: number;
    /**
     * After how many milliseconds a cosignature is old. Default a day.
     */
    maxAge?: number;
    /**
     * Ends the call.
     */
    signal?: AbortSignal;
};
export type StateProof = {
    as_of_height: number;
    as_of_hash: string;
    log: string;
    log_size: number;
    /**
     * The file. Only what verifyStateProof finds in it is proven.
     */
    proof: string;
    /**
     * Which of the addresses that were asked for, from 0 on, are cut short.
     */
    cut: number[];
    links_without_transactions: number;
};
/**
 * @typedef {object} KeyRecord What the map has of a key (protocol/SPEC.md §12).
 * @property {string} address
 * @property {string} parent_address "" for a root.
 * @property {string} accept_tx_hash The MLA of the link to the parent; "" for a root.
 * @property {string} id_tx_hash Of the tree of which the key is the root; "" for another key.
 * @property {number} height Of the last block that changed this.
 */
/**
 * @typedef {object} IDRecord What the map has of an id (protocol/SPEC.md §12).
 * @property {string} id_tx_hash
 * @property {string} merged_into The id that it merged into; "" if it is current.
 * @property {string} main_address The root of its tree; "" if it has merged.
 */
/**
 * @typedef {object} ProvenKey What is proven of a key.
 * @property {"key"} kind
 * @property {string} address
 * @property {boolean | undefined} found Whether it was ever in a link; undefined if the proof does not come to it.
 * @property {boolean} cut Whether the way up is longer than what a proof may show: then the root and the identity are not proven.
 * @property {string} parent_address "" for a key without a parent.
 * @property {string[]} path From the key up to the root, or as far as it is proven.
 * @property {string} main_address The root; the key itself if it has no parent; "" if that is not proven.
 * @property {string} id_tx_hash The identity; "" for a key that was never in a link, or if that is not proven.
 * @property {string} accept_tx_hash The MLA of the link to the parent.
 * @property {KeyRecord[]} records From the key's up to the root's; none if it was never in a link.
 */
/**
 * @typedef {object} ProvenIdentity What is proven of an id.
 * @property {"identity"} kind
 * @property {string} id_tx_hash
 * @property {boolean | undefined} found Whether it ever named an identity; undefined if the proof does not come to it.
 * @property {boolean} cut Whether it has merged more often than a proof may show: then what it is now is not proven.
 * @property {"CURRENT" | "MERGED" | ""} state "" if it was not found.
 * @property {string} merged_into The identity that it is part of now; "" if it is current, or if that is not proven.
 * @property {string} main_address The root of the identity that it is or is part of; "" if that is not proven.
 * @property {IDRecord[]} records From the id's to that of the identity that it is part of now.
 */
/**
 * @typedef {object} ShownTransaction A transaction that a proof brings along.
 * @property {string} tx_hash
 * @property {"MLA" | "MLR"} kind
 * @property {number} height Of its block.
 * @property {string} block_hash Of its block, which is the one that the state log has at that height.
 * @property {number} tx_index
 */
/**
 * @typedef {object} ProvenState What a state proof shows: what was so after one block, and nothing of what came later.
 * @property {string} network
 * @property {number} as_of_height
 * @property {string} as_of_hash Whether that block is on the best chain is the witnesses' word.
 * @property {string} state_hash After the block (protocol/SPEC.md §9).
 * @property {string} state_root After the block (protocol/SPEC.md §12).
 * @property {string} log The name of the state log.
 * @property {string} log_index Of the block's entry.
 * @property {string} log_size Of the checkpoint.
 * @property {string[]} cosigners The witnesses that have cosigned it, by the names that the policy gives them.
 * @property {number} cosigned_at The latest time at which, or later, as many witnesses as the policy asks for have
 *   cosigned it, in Unix seconds; 0 if it asks for none.
 * @property {boolean} old Whether that is longer ago than maxAge, or not known: what is proven may have changed since.
 * @property {(ProvenKey | ProvenIdentity)[]} subjects
 * @property {ShownTransaction[]} transactions
 * @property {string[]} unproven What a server says of an identity, and no such file can show.
 */
/**
 * @typedef {object} VerifyOptions
 * @property {string[]} [addresses] Of what keys it must be a proof, as CashAddr.
 * @property {string[]} [ids] Of what ids.
 * @property {number} [maxAge] After how many milliseconds a cosignature is old. Default a day.
 * @property {number} [now] The time in milliseconds; left out, the clock's.
 */
/**
 * @typedef {object} ProofOf What a proof is asked to be.
 * @property {number} [atHeight] As of which block.
 * @property {boolean} [transactions] Whether to bring the MLAs and MLRs of the links along.
 * @property {AbortSignal} [signal] Ends the call.
 */
/**
 * @typedef {object} Believing How something is asked that must be proven.
 * @property {string} policy Whom to believe (C2SP's tlog-policy).
 * @property {number} [atHeight] As of which block; left out, the newest that can be proven.
 * @property {number} [maxAge] After how many milliseconds a cosignature is old. Default a day.
 * @property {AbortSignal} [signal] Ends the call.
 */
/**
 * @typedef {object} StateProof A state proof, and what the server says of it.
 * @property {number} as_of_height
 * @property {string} as_of_hash
 * @property {string} log
 * @property {number} log_size
 * @property {string} proof The file. Only what verifyStateProof finds in it is proven.
 * @property {number[]} cut Which of the addresses that were asked for, from 0 on, are cut short.
 * @property {number} links_without_transactions
 */
/** StateProofError is what the check of a state proof ends with that shows nothing. */
export declare class StateProofError extends Error {
    /**
     * INVALID: the file proves nothing. POLICY: the policy cannot be used. SUBJECT: the file is about somebody
     * else. DIFFERS: the server's answer is another than what it has proven. UNSUPPORTED: nothing
     * was found out, since there is no Ed25519 here.
     */
    reason: "DIFFERS" | "INVALID" | "POLICY" | "SUBJECT" | "UNSUPPORTED";
    /**
     * @param {string} message
     * @param {"INVALID" | "POLICY" | "SUBJECT" | "DIFFERS" | "UNSUPPORTED"} reason
     * @param {{ cause?: unknown }} [options]
     */
    constructor(message: string, reason: "INVALID" | "POLICY" | "SUBJECT" | "DIFFERS" | "UNSUPPORTED", options?: {
        cause?: unknown;
    });
}
export type NoteKey = {
    name: string;
    /**
     * In hex.
     */
    id: string;
    key: Uint8Array;
    /**
     * The name that the policy gives a witness.
     */
    called: string;
};
export type Quorum = (times: Map<string, bigint>) => bigint | undefined;
export type Checkpoint = {
    origin: string;
    /**
     * "" if the origin is no state log of these rules.
     */
    network: string;
    size: bigint;
    root: Uint8Array;
    /**
     * What is signed.
     */
    text: string;
    signatures: {
        name: string;
        id: string;
        bytes: Uint8Array;
    }[];
};
export type Leaf = {
    /**
     * Its map key.
     */
    key: Uint8Array;
    /**
     * The map key of the record that comes next on a walk; empty if it is the last.
     */
    next: Uint8Array;
    /**
     * Whether a look-up has ended at it.
     */
    reached: boolean;
    record: KeyRecord | IDRecord;
    /**
     * Of a key's record; empty of an id's.
     */
    parent: Uint8Array;
    /**
     * What was found at next.
     */
    after?: Leaf;
};
export type Branch = {
    bit: number;
    left: Tree | undefined;
    right: Tree | undefined;
};
export type Tree = Branch | Leaf;
/**
 * verifyStateProof finds what a state proof shows (protocol/SPEC.md §13), by a policy that says which log and
 * which witnesses are believed (C2SP's tlog-policy), and nothing else: no server is asked. It throws a
 * StateProofError for a file that shows nothing.
 *
 * What it shows is what was so after one block. Look how old that is, and give the addresses that you asked for: the
 * proof for another address is as valid.
 * @param {string | Uint8Array} file
 * @param {string} policy
 * @param {VerifyOptions} [options]
 * @returns {Promise<ProvenState>}
 */
export declare function verifyStateProof(file: string | Uint8Array, policy: string, { addresses, ids, maxAge, now }?: VerifyOptions): Promise<ProvenState>;
/**
 * differences names the fields in which what a server says of a key or an identity as of a block is another than what
 * was proven as of the same block: none if there is nothing that is not so. What is not proven differs in nothing.
 * @param {Readonly<Resolution> | Identity} said
 * @param {ProvenKey | ProvenIdentity} proven
 * @returns {string[]}
 */
export declare function differences(said: Readonly<Resolution> | Identity, proven: ProvenKey | ProvenIdentity): string[];
export {};
