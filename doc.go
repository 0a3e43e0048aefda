// Package modeltier lets an inference server own more models than its memory
// holds.
//
// Each model is in one of three tiers, ram, swap or storage. A [Manager] picks
// the model for a request, makes it ready, keeps it ready while it is used,
// moves weights in the background, and never promises memory that is not there.
// The three names that matter: [Manager], [Config] is everything it can be told,
// and [Lease] is the right to use a model, during which the model stays where it
// is.
//
//	m, err := modeltier.New(modeltier.Config{Models: models})
//	...
//	lease, err := m.Acquire(ctx, modeltier.Request{Capabilities: []string{"chat"}})
//	...
//	defer lease.Release()
//	serve(lease.Model())
//
// What serves it, such as an engine in this process, is what [Instance] returns.
// The parts that decide and act are interfaces of package tier, each with a
// default: [Selector] (package selector), [Placement] (package optimizer),
// [MemoryProbe] (package safety) and [Mover] (package tier/mapped).
//
// A Manager is a guest in its process: it keeps no global state, handles no
// signals, and when [Manager.Close] or [Manager.Shutdown] has returned nothing of
// it is left. All its methods may be called from any number of goroutines.
//
// What it does not promise: that a model can be served at all (memory that
// others took is not its to give), that two processes share one set of limits,
// or an order among requests for different models beyond the fairness bound of
// [Config].Fairness.
package modeltier
