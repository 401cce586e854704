package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
)

// published is the outcome of a link command, as --json prints it.
type published struct {
	TxHash        string `json:"tx_hash"`
	Kind          string `json:"kind"`
	AuthorAddress string `json:"author_address"`
	ParentAddress string `json:"parent_address"` // MLR, else ""
	RefTxHash     string `json:"ref_tx_hash"`    // MLA, MCR, else ""
	Message       string `json:"message"`
	Inputs        int    `json:"inputs"`
	FeeSatoshi    int64  `json:"fee_satoshi"`
	ChangeSatoshi int64  `json:"change_satoshi"`
	SizeBytes     int    `json:"size_bytes"`
	RawTx         string `json:"raw_tx"`
	Sent          bool   `json:"sent"`
}

func (p *publisher) printPublished(act action, link *protocol.RecordTx) error {
	raw := link.Raw()
	out := published{
		TxHash: link.TxID().String(), Kind: act.kind.String(), AuthorAddress: protocol.FormatAddress(link.Author(), p.network.value),
		Message: *p.message, Inputs: len(link.Spends), FeeSatoshi: link.Fee, ChangeSatoshi: link.Change(),
		SizeBytes: len(raw), RawTx: hex.EncodeToString(raw), Sent: !*p.dryRun,
	}
	if act.kind == protocol.MLR {
		out.ParentAddress = protocol.FormatAddress(act.parent, p.network.value)
	} else {
		out.RefTxHash = act.ref.String()
	}
	if *p.json {
		return json.NewEncoder(p.app.stdout).Encode(out)
	}
	if out.Sent {
		fmt.Fprintln(p.app.stdout, out.TxHash)
		return nil
	}
	w := tabwriter.NewWriter(p.app.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "txid\t%s\n", out.TxHash)
	fmt.Fprintf(w, "action\t%s\n", out.Kind)
	fmt.Fprintf(w, "author\t%s\n", out.AuthorAddress)
	if out.ParentAddress != "" {
		fmt.Fprintf(w, "parent\t%s\n", out.ParentAddress)
	} else {
		fmt.Fprintf(w, "refers to\t%s\n", out.RefTxHash)
	}
	if out.Message != "" {
		fmt.Fprintf(w, "message\t%q\n", out.Message)
	}
	fmt.Fprintf(w, "inputs\t%d\n", out.Inputs)
	fmt.Fprintf(w, "fee\t%d satoshi, %d bytes\n", out.FeeSatoshi, out.SizeBytes)
	fmt.Fprintf(w, "change\t%d satoshi\n", out.ChangeSatoshi)
	fmt.Fprintf(w, "sent\tno (--dry-run)\n")
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(p.app.stdout, out.RawTx)
	return nil
}

// unsigned is what an external signer needs. The scriptSig of each input is a
// push of the signature followed by the byte hash_type, and a push of the public
// key.
type unsigned struct {
	Kind          string          `json:"kind"`
	AuthorAddress string          `json:"author_address"`
	FeeSatoshi    int64           `json:"fee_satoshi"`
	ChangeSatoshi int64           `json:"change_satoshi"`
	UnsignedTx    string          `json:"unsigned_tx"`
	Inputs        []unsignedInput `json:"inputs"`
}

type unsignedInput struct {
	TxHash       string `json:"tx_hash"`
	OutputIndex  uint32 `json:"output_index"`
	ValueSatoshi int64  `json:"value_satoshi"`
	Script       string `json:"script"`
	HashType     uint32 `json:"hash_type"`
	// Sighash is to be signed as it is, not hashed again.
	Sighash string `json:"sighash"`
}

// printUnsigned prints what a signer needs, in the format that was asked for.
func (p *publisher) printUnsigned(act action, link *protocol.RecordTx, expected linkcheck.Expected) error {
	if p.format.value == "json" {
		return p.printDigests(act, link)
	}
	subject := signing.Subject{
		Kind: act.kind, Counterpart: expected.Counterpart, Reference: act.ref.String(), Message: expected.Message, Fee: link.Fee,
	}
	if act.kind == protocol.MLR {
		subject.Counterpart = protocol.FormatAddress(act.parent, p.network.value)
	}
	text := []byte(hex.EncodeToString(link.Raw()))
	var err error
	switch p.format.value {
	case "walletconnect":
		text, err = signing.JSON(signing.WalletConnect(link, subject.Prompt()))
	case "wizardconnect":
		text, err = signing.JSON(signing.WizardConnect(link, subject.Prompt(), p.keyPath.value))
	}
	if err != nil {
		return err
	}
	facts, err := json.Marshal(unsignedFacts{
		Kind: act.kind.String(), AuthorAddress: protocol.FormatAddress(link.Author(), p.network.value),
		CounterpartAddress: subject.Counterpart, Says: signing.CallsItself(expected.Message),
		FeeSatoshi: link.Fee, ChangeSatoshi: link.Change(), Expected: expected.State,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.app.stderr, "%s\n", facts)
	if code := p.app.fittingQR(string(text)); code != "" {
		fmt.Fprint(p.app.stderr, code)
	}
	_, err = fmt.Fprintf(p.app.stdout, "%s\n", text)
	return err
}

// unsignedFacts are what is to be known of a transaction that a wallet is asked to sign.
type unsignedFacts struct {
	Kind               string `json:"kind"`
	AuthorAddress      string `json:"author_address"`
	CounterpartAddress string `json:"counterpart_address"` // "" if it is not known
	// Says is what a stranger says of himself, marked as that; "" for nothing.
	Says          string `json:"says"`
	FeeSatoshi    int64  `json:"fee_satoshi"`
	ChangeSatoshi int64  `json:"change_satoshi"`
	// Expected is a state or the reason of a refusal (linkcheck.Expected); "" if nobody
	// could be asked.
	Expected string `json:"expected"`
}

// printDigests prints what a signer needs that is no wallet.
func (p *publisher) printDigests(act action, link *protocol.RecordTx) error {
	list, err := link.ToSign()
	if err != nil {
		return err
	}
	out := unsigned{
		Kind: act.kind.String(), AuthorAddress: protocol.FormatAddress(link.Author(), p.network.value),
		FeeSatoshi: link.Fee, ChangeSatoshi: link.Change(), UnsignedTx: hex.EncodeToString(link.Raw()),
	}
	for _, s := range list {
		out.Inputs = append(out.Inputs, unsignedInput{
			TxHash: s.OutPoint.Hash.String(), OutputIndex: s.OutPoint.Index, ValueSatoshi: s.Value,
			Script: hex.EncodeToString(s.Script), HashType: uint32(s.HashType), Sighash: hex.EncodeToString(s.Digest[:]),
		})
	}
	return json.NewEncoder(p.app.stdout).Encode(out)
}
