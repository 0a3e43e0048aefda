// Package process is a tier.Mover over child processes: llama-server, or any other
// engine that is a program with an HTTP health page.
//
//   - ram: the engine runs, its health page answers 2xx, its weights are cached.
//   - swap: the engine is frozen. If that would free less than half of what it takes,
//     it sleeps by means of its own ([Sleeper]), or it is stopped. [Mover.Status] says
//     which.
//   - storage: the engine is stopped.
//
// A frozen engine keeps all but its weights, and resumes in a fraction of the time of a
// start. Its weights, and those of a stopped engine, stay in the page cache, charged to
// no model, until the room is needed; then they are dropped ([Mover.Uncache]) and read
// back by the next load. For that the engine has to map them, as llama.cpp does by
// default. An engine that copies its weights frees nothing when it is frozen; that is
// detected, and it is put to sleep or stopped.
//
// A frozen engine keeps its conversations, the KV cache of its prompts, in its memory.
// One that has to stop saves and restores them by requests of its own, if it has such:
// see Engine.Save.
//
// The three names that matter: [Mover] moves models, [Engine] says how a model is
// served, [Instance] tells the holder of a lease where to send requests.
//
// No engine outlives the process that started it, even if that is killed: the kernel
// kills the engine, a reaper (a small shell) kills what the engine has started, and
// the next New ends the orphans that are recorded in Options.StateDir. Engines are
// frozen by SIGSTOP. A cgroup v2 of its own, where that can be made, keeps an engine's
// processes from hiding. The freezer of cgroup v1 is not used: it would keep a killed
// engine alive.
//
// An engine counts as ready once its health page says so and the socket that answers is
// seen to be one of its processes': a program that took the port first does not pass for
// it. Where that cannot be seen (outside Linux, or processes of another user),
// Status.Lacks says so, and who answers is believed.
//
// An engine that runs and answers nobody, or has become slow by its own history, is
// renewed if Engine.IdleCheck, Engine.SilenceLimit or Engine.SlowFactor says so. The
// Mover does not see requests: the holders of leases tell them with [Mover.Use].
//
// The command may be a client of what runs the engine, as "docker run" is, or a script
// that starts a daemon: Engine.Processes says where the engine's processes are, and
// Pause, Resume and StopCommand how it is frozen, thawed and stopped. These processes are
// then what is watched, measured, frozen, paged out by process_madvise and, if need be,
// killed. Who answers on the port is believed.
//
// The package does not promise to see memory of a GPU, which procfs does not show
// (declare it in Model.Runtime); to freeze or page out without the right to
// (CAP_SYS_NICE for paging out); to preserve requests in flight across a move (a
// request needs a lease); to reach an engine that is not our child without
// Engine.Processes, nor to see one that a daemon starts only after its client has been
// killed and its StopCommand has failed three times, nor to end one whose daemon has
// ended before its processes were seen; or to tell an engine that spins for
// ever, and answers its health page, from one that works on a long answer: its user
// reports that with Manager.ReportCrash.
// Where this process is the first of a container, what engines leave behind stays a zombie
// unless the program reaps it: to wait for any child would take exit statuses from others
// in this process.
//
// Outside Linux, engines are started, put to sleep, stopped and, on Unix, frozen;
// nothing is paged out, measured or recorded.
package process
