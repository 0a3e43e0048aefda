package tier

// Move takes a model from one tier to another. From and To are both Swap where
// only the kept bytes change.
type Move struct {
	Model    Model
	From, To Tier
	// Keep is the bytes of weights left present in memory when To is Swap, 0 to
	// Model.Size; a mover that works in pages leaves up to a page less, and never
	// more, and pages that the system may take are no failure when it does. A mover that cannot divide a model ignores it.
	Keep Bytes
	// Leave is the bytes of weights, the last ones, that stay in storage or go
	// there when To is Swap, 0 to Model.Size - Keep. Only a Leaver is given any.
	Leave Bytes
}

// Footprint returns the bytes that the model charges when it is there. serving is
// as for Model.Footprint.
func (m *Move) Footprint(serving bool) Footprint {
	return m.Model.divided(m.To, m.Keep, m.Leave, serving)
}

// Verb returns what the move is called: "load" (from storage), "promote",
// "demote" or "unload" (to storage). A change of kept bytes is a promote or a
// demote by its effect, which only its owner knows; Verb calls it "promote".
func (m *Move) Verb() string {
	switch {
	case m.To == Storage:
		return "unload"
	case m.From == Storage:
		return "load"
	case m.To >= m.From:
		return "promote"
	}
	return "demote"
}

// Step is one move of a plan, with the reason for it.
type Step struct {
	Move
	// Reason is the stable word, Why the details: for whose sake and by what measure.
	Reason Reason
	Why    string
	// Gain is the seconds of waiting per hour that the step is expected to save;
	// 0 where that was not estimated.
	Gain float64
}

// Plan is the moves that a Placement wants, in order. A step that frees room
// stands before the step that uses it.
type Plan struct {
	Steps []Step
	// Err says why a Need cannot be met, however long it waits: it unwraps to
	// ErrTooLarge or ErrNoCapacity. With a nil Err, no steps means that nothing
	// has to move.
	Err error
}

// Need is what a plan is for.
type Need struct {
	// Model is the index of the wanted model, or NoModel where only room is
	// wanted.
	Model int
	// To is the tier that it is wanted in. Storage: where the placement thinks
	// best.
	To Tier
	// Room is what must be free in each tier when the plan is done, beyond what
	// the model itself takes.
	Room Footprint
	// Waiters that wait for it; Background: none of them is interactive.
	Waiters    int
	Background bool
	// Patient: models under lease or with waiters of their own may be named as
	// victims; the plan then waits for them to drain.
	Patient bool
}

// NoModel is the Model of a Need for room alone.
const NoModel = -1
