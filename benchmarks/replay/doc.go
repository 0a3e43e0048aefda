// Replay plays recorded requests to a real Manager in virtual time and tells how
// long people would have waited under each placement.
//
//	go run ./benchmarks/replay -traces DIR
//
// DIR holds X.csv.gz (t_seconds,model_id), X.models.csv (model_id,size_gb,…) and,
// for the smallest capacities, X.models.edge.csv; GB there are 10^9 bytes.
// Without -traces it plays workloads of its own making.
//
// A request pays 0.1 s for a GB that it finds in ram, 0.5 in swap and 1.5 in
// storage. With -clock trace (the default) trace time stands still while a
// request is served, so that figures compare with simulations; with -clock real
// the loads take their time, and requests overlap, queue and are batched.
//
// With -hints 0.5, half of the requests are announced when the one before arrives.
// Under -clock trace, loads that a request waits for and loads of announced models
// take no trace time; other idle moves take their time in the gaps between requests.
// -clock real tells what announcing is worth if loads take their time.
//
// With -cached 1.2, what gives way stays in a page cache of 1.2 GB and of what of the
// limit of ram is not in use, and costs what ram does until it is dropped: by the
// Manager for a load, or by the kernel, which takes what was not touched for longest.
//
// With -without logit, the learned placement lacks that part; the parts are
// interarrival, logit and prefetch, and several are separated by commas.
package main
