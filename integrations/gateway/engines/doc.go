// Package engines moves models whose engines are programs that a configuration names: it
// is a tier.Mover of package process that knows which engine a model has, also while a new
// configuration takes the place of an old one.
//
// The name that matters: Mover. Add and SetNames take up another configuration, the one
// before the Manager is told of its models and the other after it.
package engines
