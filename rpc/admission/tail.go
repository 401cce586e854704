package admission

import "context"

// Tail is what is left of an answer when its handlers have returned. A stream's is nearly all of it: what the handlers have
// on the stack would be held for as long as it goes on. One goroutine uses it.
type Tail struct{ run func() }

type tailKey struct{}

// WithTail returns a context of a request whose answer may have a tail. Its user calls Run when the handlers have returned.
func WithTail(ctx context.Context) (context.Context, *Tail) {
	t := new(Tail)
	return context.WithValue(ctx, tailKey{}, t), t
}

// Run goes on with the answer, if there is something left.
func (t *Tail) Run() {
	if t.run != nil {
		t.run()
	}
}

// Later has run go on with the answer to a request when its handlers have returned: at once, if nobody would then.
func Later(ctx context.Context, run func()) {
	if t, ok := ctx.Value(tailKey{}).(*Tail); ok {
		t.run = run
		return
	}
	run()
}

// atEnd calls end when the answer to a request has ended: now, if it has no tail.
func atEnd(ctx context.Context, end func()) {
	t, ok := ctx.Value(tailKey{}).(*Tail)
	if !ok || t.run == nil {
		end()
		return
	}
	run := t.run
	t.run = func() {
		defer end()
		run()
	}
}
