// Package core is the state machine under the Manager: who is where, who waits
// for whom, which bytes are promised, and what has to happen next.
//
// It is pure: no goroutines, no clock, no I/O, no locks. Its owner, one
// goroutine, tells it what happened (a request joined, a move ended, the probe
// read) and carries out the [Action] list that [Core.Step] answers. The three
// names that matter: [Core], [Entry] is one model in it, and [Move] is bytes on
// their way.
//
// The one thing it shares with other goroutines is each entry's [Gate], through
// which requests for a resident model pass without asking the core.
//
// What it promises are the invariants of the ledger and of leases: nothing moves
// under a lease, nothing starts without its bytes set aside, every waiter is
// answered exactly once, and a waiter that the resident models starve gets its
// turn after [Options].Fairness. Pressure starves nobody either: what can be served
// without memory is, whatever the pressure; of n models that it keeps out, each is
// the first to be loaded in one of n gaps between two waves of it, as long as
// somebody asks for it again within Fairness. Models may take more than was
// declared for them: what was seen is charged as far as there is room, and what
// there is no room for, the overdraft, is taken off what is promised until it is
// charged. What it does not promise is a good placement: whom to evict is the
// [tier.Placement]'s decision, which the core only checks.
package core
