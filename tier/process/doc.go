// Package process is a tier.Mover over child processes: llama-server, or any
// other engine that is a program with a health page.
//
//   - ram: the engine runs, its health page says ready, its weights are cached.
//   - swap: the engine is frozen with its weights paged out; or it sleeps, where
//     it has a sleep of its own ([Sleeper]) and freezing would free nothing; or,
//     where neither works, it is stopped. [Mover.Status] says which.
//   - storage: the engine is stopped.
//
// A frozen engine answers again in a fraction of the time of a start, because it
// keeps everything but the weights: those are clean pages of their own file, read
// back at the pace of the device, or at memory's where they are still cached. The
// engine has to map its weights for that (llama.cpp does by default); one that
// copies them into memory of its own gains nothing from freezing, which is seen,
// and it is put to sleep or stopped instead.
//
// The three names that matter: [Mover] moves, [Engine] says how a model is
// served, and [Mover.URL] tells whoever holds a lease where to send requests.
//
// No engine outlives the process that made it, also where that is killed: the
// kernel kills the engine with it, a guard (a small shell) kills what the engine
// has started, and what is recorded in Options.StateDir is swept at the next
// start. Freezing is done with a cgroup v2, else with SIGSTOP; never with the
// freezer of cgroup v1, in which a frozen process cannot be killed and so would
// outlive its maker.
//
// What the package does not promise: that it sees the memory of a GPU, which
// procfs does not show (declare it in Model.Runtime); that it can freeze or page
// out without the rights to (CAP_SYS_NICE for paging out); that requests in
// flight survive a move (the holder of no lease has no request); that it reaches
// an engine that is run by somebody else, as "docker run" does; or that it notices
// an engine that runs and answers nobody any more: only its user can tell that from
// a long answer, and says so with Manager.Lost. Outside Linux
// engines are started, stopped, put to sleep, and on Unix frozen, but nothing is
// paged out, counted or swept.
package process
