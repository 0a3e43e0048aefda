// Package safety decides how much memory may be promised. It imports package tier
// and starts no goroutine.
//
// The three names that matter: [Probe] reads what the machine and the containers
// around the process have, [Admit] admits a move or refuses it with the numbers, and
// [Governor] decides from one reading to the next whether models may be admitted at
// all and how many bytes should leave; [Reclaim] chooses whose. All but the Probe
// are pure functions and values, without clock, lock or I/O.
//
// # The probe
//
// On Linux 3.14 and later Available is MemAvailable, bounded by every cgroup with a
// limit from the process's own up to the mount point, of version 1 or 2, wherever it
// is mounted: the smaller of memory.max and memory.high, less what is in use. Clean
// file pages that are not locked count as available in both, however often they were
// read, and so does ZFS's cache above its floor; pages that are dirty or being
// written do not. Those that processes map are told as Mapped, our own among them;
// admission takes them off. Swap on disk is kept apart from zram and zswap, and
// bounded by the cgroups' limits on swap. Elsewhere it is what the system calls of
// macOS and Windows say; on any other system a reading is an error.
//
// Pressure is judged as follows; a level is left when the figure has fallen to half:
//
//	          with pressure stall information      without
//	high      full avg10 ≥ 5 %, some avg10 ≥ 20 %  direct reclaim and ≥ 8 MiB/s of swap-out
//	medium    some avg10 ≥ 5 %                     ≥ 32 MiB/s of file pages read again
//
// What the process's own cgroup stalls counts as it is: version 2 records it, for
// hybrid hosts as well. What the machine stalls may be a neighbour that thrashes
// inside a limit of its own. It counts together with a shortage that can be seen
// from here: less than a 16th of the memory available; swap-out as above, or as fast
// a growth of what our own cgroup has on swap; direct reclaim once a second; or 32
// MiB/s of our own cgroup's file pages read again. Direct reclaim at a cgroup's
// limit is not among the kernel's counters of the machine. Our own refaults are
// counted by version 2, and by version 1 of newer kernels; else those of the machine
// stand in, for kernels without pressure stall information alone ([ProbeStatus] says
// what is in use).
//
// [Governor] knows two things that the probe does not. While the reserve is not
// whole, the machine's stalls count. And while our own loads read, or did until half
// a minute ago, what stalls and direct reclaim and refaults say is the price of the
// change of model and no pressure, as long as no more is read again than they read.
//
// A kill by the kernel, or an allocation that failed at a cgroup's limit, means high
// for a minute; in limited cgroups only theirs count, and else kills after direct
// reclaim on the machine, as others are at a neighbour's limit. A cgroup that runs
// into its limit and has less than a 16th of it left without its file pages means high
// as well. Running into the limit alone means nothing: reading files does that.
//
// Whatever the kernel's files hold, a reading has figures that are possible, or is
// an error that names the file. The probe never panics, and reads at most 1 MiB of
// a file (16 MiB of the list of mounts, of counters and of a cgroup's files).
//
// # What is promised
//
// A need that Admit lets through is, for RAM, no more than what the ledger leaves
// and no more than
//
//	Available − our own pages counted in it − pages that others map − what is promised, to models and outsiders, and cannot be seen yet − the reserve
//
// in exact arithmetic, whatever the numbers. Swap is never room for RAM, and
// compressed swap is no room at all. Under high pressure no need that takes memory
// is admitted; weights in swap that are clean pages of their files take none.
//
// # Under which assumptions
//
//   - The caller states in [Promise] all that was promised and has not arrived, and
//     how much of its own is clean file pages.
//   - The peak of a move is what was declared, or what was seen of earlier ones
//     if that is more (tier.Footprinter). A move that takes more takes it from
//     the reserve until it is seen.
//   - Between a reading and the arrival of the bytes, other programs take no more
//     than the reserve. The same holds of what they take before an outsider takes its
//     room, and of what a model takes later than when it came though it was charged for
//     it, which cannot be told from the outsider's (Promise.Outside). If one takes more
//     and faster, the kernel first drops clean pages of models, and then the OOM killer
//     acts.
//   - MemAvailable is an estimate: right to a few per cent of the memory on the
//     machines that were looked at. The reserve covers that.
//
// # What is not promised
//
//   - Limits on cgroups that a container does not see. Version 1 tells the
//     smallest of them, and it counts; version 2 does not, and PSI and the count of
//     kills are all that is left. A note says so if the probe can tell.
//   - That a device can allocate what is available: its driver may want it in one
//     piece, or not from CMA areas (see ProbeOptions.DeviceMemory). A load can fail
//     for that, and its caller has to expect it.
//   - That models in swap cause no pressure. They are served in place whatever the
//     pressure, and many at once read their files again and again, which can keep
//     it high: then no model comes to RAM until fewer are asked for.
//   - That other programs' file pages stay. Those that they read without mapping
//     them count as available: admitting a model may make them read their files
//     again. Mapped ones are taken off as far as they can be told from shared memory
//     and from what models map: while a model moves, or after it was served from
//     swap, all of its pages are taken to be its own.
//   - That a neighbour's stalls never count: with direct reclaim on the machine at the
//     same time, as reading a lot into a full page cache causes, they do.
package safety
