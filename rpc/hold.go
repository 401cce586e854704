package rpc

// Hold keeps a keyserver from answering anybody until it is closed: until it is known
// that what it would say does not contradict what was anchored. A nil Hold holds
// nothing.
type Hold <-chan struct{}

// heldBack is what clients are told then.
const heldBack = "the keyserver is held back until its hashchain has been compared with what was anchored"

func (h Hold) on() bool {
	if h == nil {
		return false
	}
	select {
	case <-h:
		return false
	default:
		return true
	}
}
