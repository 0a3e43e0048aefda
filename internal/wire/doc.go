// Package wire is the JSON request contract as bytes: what a request means, and
// what an answer looks like.
//
// [Parse] turns one request into an operation, one of the types that it lists. The
// functions that return []byte ([Selected], [HotLoadStarted], [JobStatus], …) turn
// what came of an operation into an answer, and [Error] does so for what went wrong.
// Nothing here blocks, keeps state or knows the Manager: the caller carries the
// operation out and hands over plain values.
//
// The keys, types and sentences of the contract are fixed: clients of an earlier
// system compare them. Sentences about requests and about what the Manager does are
// made here. An error of a part (a model that is not known, a limit that is
// exceeded) carries its own sentence, which is quoted whole and never taken apart.
//
// 1 GB on the wire is 2^30 bytes.
package wire
