package links

// RecordWork is recordWork.
const RecordWork = recordWork

// Limit lets a question take less work than MaxWork.
func (v *Identities) Limit(most int) { v.most = most }

// Work returns what the last question took.
func (v *Identities) Work() int { return v.work }

// VersionsAsked returns how many versions of keys all questions so far took.
func (v *Identities) VersionsAsked() int { return v.past.then.asked + v.past.since.asked }

// Asked returns how many records of actions all questions so far took.
func (v *Identities) Asked() int { return v.ledger.asked }
