// Package config reads the file that says what a gateway serves and by which engines:
// YAML, of which JSON is a part, written by a person.
//
// The three names that matter: Read returns the File of a path, with every fault of it at
// once; each *Fault tells file, line, column, key, value and what would be right.
// Warning is about a key that is not known: the file is used all the same.
//
// What the file may hold is what the types are: their comments are the descriptions in
// Schema and in Reference, and there is no other list of keys. The package makes no Manager,
// starts no program, and changes nothing; File.Check looks at what the file names, and
// File.Watch tells when it is another one.
package config
