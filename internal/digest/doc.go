// Package digest tells the SHA-256 of files, and remembers it for as long as a file is
// what it was.
//
// The names that matter: [Identify] tells what a file is without reading it, [Sum] reads
// it, and [Memory] keeps what was read. None of them promises that the file is still
// the same when they return: who has to know identifies it again.
package digest
