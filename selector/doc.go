// Package selector decides which model answers a request, in well under a
// microsecond, and can say why.
//
// The three names that matter: [New] returns the selector that a Manager uses by
// default; [NewWith] takes [Options], weights and safety among them; a request's
// Policy is [PolicyRecorded], the scoring of the wire contract and the default, or
// [PolicyAdaptive], which ranks by the predicted time until a model can be used and
// learns from how requests turn out.
//
// A request is manual (a model is named: that one or an error), auto (capabilities
// and a priority) or hybrid (a preferred model, else auto). In any mode the chosen
// model
//
//   - has every capability that the request names, by name or through the
//     [Taxonomy], and meets every constraint on labels;
//   - is safe by the last reading of memory ([Safety]), or is in a memory tier
//     already;
//   - is expected to be usable before the request's deadline ([Costs]).
//
// If there is none, a typed error says what is missing and what is nearest. Among
// models of one score, the one that can be served soonest wins, then the one that is
// listed first. For another scoring than these two there is [ByScore], which keeps all of
// this; for other rules, implement [tier.Selector].
//
// # Cost
//
// A request in auto costs a table look-up and at most one binary search, whatever
// the size of the library; it takes no lock and allocates nothing. What it looks up is
// made on first use, in time in proportion to the library: a ranking for each
// combination of capabilities, preferences, constraints and priority that is asked
// for. Rankings are kept for as long as the view is the same, which the Manager
// replaces after every change; those of the adaptive policy also until something is
// learned. The models that a ranking is made of are kept for as long as the library is
// the same. A view is the same if its address is: it must not change once a Select
// has seen it.
//
// # What it does not promise
//
// That the model can be made ready: between the view and the move the memory may
// be gone, and admission is the Manager's. Predicted times are estimates, from
// constants until the adaptive policy has measured better ones. What was learned is
// not kept across restarts.
package selector
