// Package core is the state machine under the Manager: which model is where, which
// requests wait for it, which bytes are promised, and what has to happen next.
//
// It is pure: no goroutines, no clock, no I/O, no locks, no foreign code. Its owner,
// one goroutine, tells it what happened (a request joined, a move ended, the probe
// read), calls [Core.Step], and carries out the [Action] list that it returns. The
// names that matter: [Core]; [Entry], one model in it, with a phase and a fate; and
// [Move], bytes on their way, with a phase. transition and moveTo are the only
// writers of phases, and mark what may let a blocked demand go on.
//
// A request that has to wait becomes part of its model's demand (demand.go). The
// placement answers with a plan, which is carried out step by step (plan.go); each
// step begins a move (move.go). What is charged and promised stands in the [Ledger]
// (ledger.go, account.go). Several models that are wanted at once are one demand
// (set.go), and so are other programs that are to have room (outsider.go). Memory
// pressure, orders, crashes and reconfiguration have files of their own names.
//
// The one thing it shares with other goroutines is each entry's [Gate], through
// which requests for a resident model pass without asking the core.
//
// What it promises are the invariants of the ledger and of leases: nothing moves
// under a lease, nothing starts without its bytes set aside, every waiter is
// answered exactly once, and a waiter that resident models starve gets its turn
// after Fairness: from then on no model leaves for a younger one before it has its plan.
// A set is granted as a whole, and what is loaded for it stays until then. Pressure starves no model either: what can be served without
// memory is, whatever the pressure; of n models that it keeps out, each is the first
// to be loaded in one of n gaps between two waves of it, as long as it is asked for
// again within Fairness. Models may take more than was declared for them: what was
// seen is charged as far as there is room, and the rest, the overdraft, is taken off
// what is promised until it is charged.
//
// What it does not promise is a good placement: which models give way is the
// [tier.Placement]'s decision, which the core only checks.
package core
