package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/scripts/bench/chain"
)

// Names of what is measured in memory.
const (
	memoryCopy  = "memory copy"
	walk        = "walk"
	wireDecode  = "wire decode"
	plainSHA256 = "sha256"
	walkVerify  = "walk and merkle root"
)

// work is something done with each block.
type work struct {
	name string
	do   func(raw []byte) (actions int, err error)
}

// works returns what is measured in memory.
func works(largest int) []work {
	to := make([]byte, largest)
	verifying := protocol.Walk{Root: protocol.RootAlways}
	return []work{
		{memoryCopy, func(raw []byte) (int, error) {
			copy(to, raw)
			return 0, nil
		}},
		{walk, func(raw []byte) (int, error) {
			_, err := protocol.ReadBlock(raw)
			return 0, err
		}},
		{wireDecode, decode},
		{plainSHA256, func(raw []byte) (int, error) {
			copy(to, sum(raw))
			return 0, nil
		}},
		{walkVerify, func(raw []byte) (int, error) {
			_, err := verifying.Read(raw)
			return 0, err
		}},
	}
}

func sum(raw []byte) []byte {
	digest := sha256.Sum256(raw)
	return digest[:]
}

// decode is the plain way: decode the block, look at each output script.
func decode(raw []byte) (actions int, err error) {
	var block wire.MsgBlock
	if err := block.Deserialize(bytes.NewReader(raw)); err != nil {
		return 0, err
	}
	for _, tx := range block.Transactions {
		for _, out := range tx.TxOut {
			if _, ok := protocol.DecodeAction(out.PkScript); ok {
				actions++
				break
			}
		}
	}
	return actions, nil
}

// walkActions returns how many actions the walk finds.
func walkActions(raw []byte) (actions int, err error) {
	block, err := protocol.ReadBlock(raw)
	if err != nil {
		return 0, err
	}
	for range block.Carriers() {
		actions++
	}
	return actions, nil
}

// inMemory measures what needs no file and no node.
func (b *benchmark) inMemory(ctx context.Context) error {
	if b.memorySize < 1e6 {
		return nil
	}
	for _, shape := range []string{"payments", "mixed"} {
		opt := chain.Options{
			Seed: b.seed, Blocks: int(b.memorySize / 1e6), BlockSize: 1_000_000, Actions: 0.001, Shape: shapes()[shape],
		}
		blocks, err := fullBlocks(ctx, opt, b.log)
		if err != nil {
			return err
		}
		p := newProgress(b.log, "measuring in memory, "+shape)
		measured, allocations, err := measureInMemory(ctx, blocks, b.rounds)
		p.end()
		if err != nil {
			return err
		}
		group := fmt.Sprintf("in memory, one core, blocks of 1 MB, %s", shape)
		rate := func(name string, ratios ...ratio) row {
			return row{Group: group, What: name, Value: measured.median(name), Unit: "MB/s", Ratios: ratios}
		}
		overCopy := 0.5
		if shape != "payments" {
			overCopy = 0
		}
		b.report.add(
			rate(memoryCopy),
			rate(walk, measured.ratio(walk, memoryCopy, overCopy), measured.ratio(walk, wireDecode, 25)),
			rate(wireDecode),
			rate(plainSHA256),
			rate(walkVerify, measured.ratio(walkVerify, plainSHA256, 0)),
			row{Group: group, What: "walk, allocations", Value: allocations, Unit: "per transaction", AtMost: 0.01},
		)
	}
	return nil
}

// fullBlocks makes a chain and returns its blocks of the wanted size.
func fullBlocks(ctx context.Context, opt chain.Options, log io.Writer) (blocks [][]byte, err error) {
	p := newProgress(log, fmt.Sprintf("making %d blocks in memory", opt.Blocks))
	defer p.end()
	c, err := chain.New(opt)
	if err != nil {
		return nil, err
	}
	for raw, err := range c.Blocks(ctx) {
		if err != nil {
			return nil, err
		}
		p.show(c.Stats().Bytes, int64(opt.Blocks)*int64(opt.BlockSize))
		blocks = append(blocks, raw)
	}
	return blocks[len(blocks)-opt.Blocks:], nil
}

// measureInMemory returns each work's rate in MB/s by round, and the walk's
// allocations for each transaction.
func measureInMemory(ctx context.Context, blocks [][]byte, times int) (rounds, float64, error) {
	size, largest, transactions := 0, 0, 0
	for i, raw := range blocks {
		size, largest = size+len(raw), max(largest, len(raw))
		block, err := protocol.ReadBlock(raw)
		if err != nil {
			return nil, 0, err
		}
		transactions += block.TxCount
		found, err := walkActions(raw)
		plain, plainErr := decode(raw)
		if err := errors.Join(err, plainErr); err != nil {
			return nil, 0, err
		}
		if found != plain {
			return nil, 0, fmt.Errorf("block %d: the walk finds %d actions, the decoder %d", i, found, plain)
		}
	}
	measured := make(rounds)
	var allocations float64
	for range times {
		for _, w := range works(largest) {
			if err := ctx.Err(); err != nil {
				return nil, 0, err
			}
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			for _, raw := range blocks {
				if _, err := w.do(raw); err != nil {
					return nil, 0, err
				}
			}
			elapsed := time.Since(began)
			runtime.ReadMemStats(&after)
			measured.add(w.name, float64(size)/elapsed.Seconds()/1e6)
			if w.name == walk {
				allocations = float64(after.Mallocs-before.Mallocs) / float64(transactions)
			}
		}
	}
	return measured, allocations, nil
}
