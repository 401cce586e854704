// Package audit finds out whether a keyserver has shown everyone one history
// (protocol/ANCHORS.md §5), trusting neither the keyserver, nor an
// indexer, nor whoever handed out a proof bundle.
//
//	audit.go      the auditor and the order of its checks
//	report.go     what it found: verdict, checks, findings
//	entries.go    its own copy of the hashchain (check 1)
//	anchors.go    transactions, blocks, and the baton (checks 2 and 3)
//	headers.go    which blocks are on the best chain, from a file of headers
//	compare.go    the anchors against the copy (check 4)
//	freshness.go  whether anchors follow what is shown (check 5)
//	statements.go what the keyserver has signed, and by which key
//	rotations.go  where the keyserver has replaced its key, whatever it says
//	log.go        the keyserver's transparency log, its witnesses, and what it contradicts
//	prove.go      from a contradiction to evidence of it
//	evidence.go   the evidence file
//	verify.go     reading one, on a machine that has nothing else
//	verifylog.go  reading one with checkpoints
//	entryproof.go what shows to anybody that an entry is in the hashchain
//	state.go      what is kept from one audit to the next
//	reset.go      beginning again from the pins
//	watch.go      auditing again and again
//
// What never belongs here: the network, whose parts are behind Keyserver,
// Headers and Sources (package sources has them); the terminal; publishing anchors.
//
// # What is trusted
//
// The genesis anchor that the user pins, and what says which blocks are on the
// best chain: one's own node, or a file of headers behind a pinned checkpoint
// (HeaderFile, which says what it does not check). Nothing else: not even that
// the keyserver answers the same to others, which is what the anchors are for.
//
// # Verdicts
//
// Sound speaks of positions: what the last anchor commits to. Entries after that could
// still be replaced. NotSound says that they could be for longer than they may, by the
// keyserver's own schedule (package schedule). Then an anchor leaves out what the auditor
// saw long before its block, repeats a record too soon, is too old, or lets too many
// entries wait; or one's own node knows that a next one was made, and the bundle does not
// have it. That is no evidence: the bundle may be to blame, or somebody between.
// Entries wait from when this auditor saw them first. So a first audit does not know for
// how long, and says so. Times are those in blocks, and those of the auditor's clock,
// which may be wrong: the chain corrects one that is behind it, and what was seen in its
// future counts as seen now. So an honest keyserver is not late to anybody, but to a
// clock that is ahead.
//
// Misbehaviour is only what others can be convinced of: each such finding comes
// with a file of evidence, which was verified before it was written. A keyserver does not
// sign what it merely shows, and anybody between it and the auditor can change that. So
// a contradiction to that alone is no evidence: the verdict is that the audit could not be
// done, as for everything else that is missing or broken.
//
// What was shown does not stay, either. An audit uses all of it, and its report says how
// much of it nothing covers. The next one takes for the keyserver's word only what an
// anchor commits to, or what is covered by a signed head or by a signed reply about the
// last entry: an entry's hash covers all before it. It takes of the rest what is still
// shown. So entries that somebody makes up, between an honest keyserver and its auditor, do
// not disturb the next audit. Signatures cover nothing before an anchor has said which
// hashchain is the keyserver's: until then anybody can make them.
//
// Evidence is about a keyserver that its reader has pinned (Pins). Anybody can begin a
// hashchain or a chain of anchors in the name of a domain, and sign for it what he
// likes. The auditor's own pins are the genesis anchor, and the first entry of the copy
// once an anchor of that chain commits to it: before that no signature convicts.
//
// Misbehaviour is for good: evidence that an earlier audit found, and that still
// holds, is found again, whatever is shown now.
//
// A statement counts by the key that was in force at its size alone: heads of n
// entries, and the reply about position n, by the last key that an entry before
// position n has named. A key that the keyserver has replaced convicts nobody for sizes
// after that, since a thief of it can sign what he likes. The auditor shows the statement,
// and what to compare it with; the verdict is that the audit could not be done. Nothing
// tells when a statement was signed, so a stolen key still speaks for the
// sizes at which it was in force.
//
// The log's own key is bound to the keyserver's by a statement, which is by the key in force at its
// size (keyserver/TLOG.md §2). It counts for checkpoints of at most that size: a key of the log that
// was replaced convicts nobody for sizes after that.
//
// A thief of a replaced key would leave out what replaced it. So the auditor
// searches its whole copy for that before anybody is convicted, and the reader of
// evidence can ask the keyserver (AskRotations). Where nobody knows, what is taken for
// granted is said (Conviction.Assumes).
//
// # Files
//
// A folder belongs to one chain of anchors; only one process has it open.
//
//	audit.json      how far the copy is covered, what was verified, what was signed, and
//	                since when entries wait for an anchor
//	entries         the hashchain, 153 bytes for each entry
//	anchors         the anchors that were verified, as items of a proof bundle
//	evidence/*.json misbehaviour
//
// entries and anchors are on disk before audit.json says so. The file of entries may have
// more: entries that were shown and are not covered, or not yet when a process was killed
// amid a long download. They are not fetched again as far as their hashes fit, if the last
// one is still shown. So nothing is saved amid a download, and it goes on all the same. The other files
// are replaced as a whole.
//
// Version 1 of audit.json took everything for the keyserver's that was shown. Only what its
// statements and anchors cover counts of its copy; the rest was shown.
package audit
