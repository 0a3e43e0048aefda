// Command change measures a change of model from outside: the time from a request to
// its first token, through the server as it is shipped, beside stopping and starting
// the same engine, and beside another front end where one is named (-peer). All ways
// take turns in one run, over the same engine, models and requests.
//
// With -group every way runs in a memory cgroup of version 1 of its own with that
// limit, as in a container; that takes root.
package main
