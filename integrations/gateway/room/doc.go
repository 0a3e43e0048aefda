// Package room is the engine room of the gateway: what every face of it does with a
// request once that is understood. It takes a lease of the request's model, which loads it
// if need be, waits for a turn at its engine, passes the request on, and holds the lease
// until the answer has ended or its client has left.
//
// The names that matter: a [Room] serves what a face made of a request, an [Ask]; a [Face]
// is how the clients of one API read errors, as a [Problem].
//
// A request is sent again, once, only if its client has got nothing and no engine has
// answered a byte: on a kept connection that the engine closed as the request came, and
// after a crash.
//
// What it does not promise: to understand answers, which pass untouched unless a face
// translates them; or to queue where an engine answers more at once than it was asked to.
package room
