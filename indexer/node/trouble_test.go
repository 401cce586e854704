package node_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
)

// diary notes what a log hears: after how many minutes, how loud, which error, and
// how many were left out before it.
type diary struct {
	began time.Time
	lines []string
}

func (d *diary) Write(p []byte) (int, error) {
	var line struct {
		Level, Error string
		LeftOut      int `json:"left_out"`
	}
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	d.lines = append(d.lines, fmt.Sprintf("%d %s %s %d", int(time.Since(d.began).Minutes()), line.Level, line.Error, line.LeftOut))
	return len(p), nil
}

// TestTrouble plays failures, in a time of its own.
func TestTrouble(t *testing.T) {
	type step func(*node.Trouble)
	fails := func(text string) step { return func(t *node.Trouble) { t.Warn(errors.New(text)) } }
	works := func(t *node.Trouble) { t.Over() }
	wait := func(d time.Duration) step { return func(*node.Trouble) { time.Sleep(d) } }
	// Failing goes on for a time, 25 times a minute.
	const pause = time.Minute / 25
	failing := func(d time.Duration, texts ...string) step {
		return func(t *node.Trouble) {
			for i := range int(d / pause) {
				t.Warn(errors.New(texts[i%len(texts)]))
				time.Sleep(pause)
			}
		}
	}
	comingAndGoing := func(d time.Duration) step {
		return func(t *node.Trouble) {
			for range int(d / pause) {
				t.Warn(errors.New("a"))
				t.Over()
				time.Sleep(pause)
			}
		}
	}
	for name, test := range map[string]struct {
		steps []step
		want  []string
	}{
		"nothing":           {[]step{works, wait(time.Hour), works}, nil},
		"once":              {[]step{fails("a"), wait(5 * time.Minute), works, works}, []string{"0 warn a 0", "5 info  0"}},
		"lasts":             {[]step{failing(25*time.Minute, "a")}, []string{"0 warn a 0", "10 warn a 249", "20 warn a 249"}},
		"seldom":            {[]step{fails("a"), wait(15 * time.Minute), fails("a")}, []string{"0 warn a 0", "15 warn a 0"}},
		"changes":           {[]step{failing(5*time.Minute, "a"), failing(6*time.Minute, "b")}, []string{"0 warn a 0", "5 warn b 124"}},
		"changes at once":   {[]step{fails("a"), fails("b"), wait(time.Minute), fails("b")}, []string{"0 warn a 0", "1 warn b 1"}},
		"changes all along": {[]step{failing(3*time.Minute, "a", "b")}, []string{"0 warn a 0", "1 warn b 24", "2 warn a 24"}},
		"comes back":        {[]step{fails("a"), works, wait(time.Minute), fails("a"), works}, []string{"0 warn a 0", "0 info  0", "1 warn a 0", "1 info  0"}},
		"comes back soon":   {[]step{fails("a"), works, fails("a"), works, fails("a")}, []string{"0 warn a 0", "0 info  0"}},
		"comes and goes":    {[]step{comingAndGoing(2 * time.Minute)}, []string{"0 warn a 0", "0 info  0", "1 warn a 24", "1 info  0"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &diary{began: time.Now()}
				trouble := node.NewTrouble(zerolog.New(log), node.WarnEvery, "it fails", "it works")
				for _, step := range test.steps {
					step(trouble)
				}
				if !slices.Equal(log.lines, test.want) {
					t.Errorf("the log heard %q, want %q", log.lines, test.want)
				}
			})
		})
	}
}

// TestTroubleTogether fails and works in many goroutines.
func TestTroubleTogether(t *testing.T) {
	trouble := node.NewTrouble(zerolog.Nop(), node.WarnEvery, "it fails", "it works")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 100 {
				trouble.Warn(fmt.Errorf("failure %d", i))
				trouble.Over()
			}
		})
	}
	all.Wait()
}
