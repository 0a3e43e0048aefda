// Package safety says how much memory may be promised. It imports package tier
// and starts nothing.
//
// The three names that matter: [Probe] reads what the machine and the containers
// around the process have, [Admit] lets a move go ahead or refuses it with the
// numbers, and [Governor] decides from one reading to the next whether models may
// be admitted at all and how many bytes should leave; [Shed] then says whose.
// All but the Probe are pure functions and values, without clock, lock or I/O.
//
// # The probe
//
// On Linux Available is MemAvailable (an estimate where the kernel is older than
// 3.14), bounded by every cgroup with a limit from the process's own up to the
// mount point, of version 1 or 2, wherever it is mounted: the smaller of
// memory.max and memory.high, less what is in use. File pages that are not locked
// count as available in both, our own among them; [Promise] takes those off. Swap
// on disk is kept apart from zram and zswap, and bounded by the cgroups' limits
// on swap. Elsewhere it is what the system calls of macOS and Windows say; on any
// other system a reading is an error.
//
// Pressure is judged so; a level is left when the figure has fallen to half:
//
//	          with pressure stall information      without
//	high      full avg10 ≥ 5 %, some avg10 ≥ 20 %  direct reclaim and ≥ 8 MiB/s of swap-out
//	medium    some avg10 ≥ 5 %                     ≥ 32 MiB/s of file pages read again
//
// The figures are the largest of the machine's and of those of limited cgroups of
// version 2. A kill by the kernel, or an allocation that failed at a cgroup's
// limit, means high for a minute; in limited cgroups only theirs count. So does a
// cgroup that runs into its limit and has less than a 16th of it left without
// its file pages. To run into the limit alone means nothing: reading files does.
//
// # What is promised
//
// A need that Admit lets through is, for RAM, no more than what the ledger leaves
// and no more than
//
//	Available − our own pages counted in it − what is promised but not to be seen − the reserve
//
// (where a cgroup bounds it, pages on its active list are taken off like our own)
// in exact arithmetic, whatever the numbers. Swap is never room for RAM, and
// compressed swap is no room at all. Under high pressure nothing that takes
// memory is admitted; weights in swap that are clean pages of their files take
// none. Whatever the files of the kernel hold, the probe returns
// figures that are possible or an error that names the file; it never panics, and
// reads no file beyond 1 MiB.
//
// # Under which assumptions
//
//   - Whoever calls states in [Promise] all that was promised and has not arrived,
//     and how much of his own is clean file pages.
//   - The peak of a move is what was declared, or what was seen of earlier ones
//     where that is more (tier.Footprinter). A move that takes more takes it from
//     the reserve until it is seen.
//   - Between a reading and the arrival of the bytes others take no more than the
//     reserve. A program that takes more and faster finds the kernel's own means:
//     clean pages of models are dropped, and then it is up to the OOM killer.
//   - MemAvailable is an estimate: right to a few per cent of the memory on the
//     machines that were looked at, and the reserve is there for that.
//
// # What is not
//
//   - Limits on cgroups that a container does not see. Version 1 tells the
//     smallest of them, and it counts; version 2 does not, and PSI and the count of
//     kills are all that is left. Notes say so where the probe can tell.
//   - That a device can allocate what is available: its driver may want it in one
//     piece, or not from CMA areas (see ProbeOptions.DeviceMemory). A loader that
//     fails all the same is an ordinary event.
//   - That models in swap do not press. They are served where they are whatever
//     the pressure, and many at once read their files again and again, which can
//     keep it high: then nothing comes to RAM until fewer are asked for.
//   - That other programs' file pages stay. Without a cgroup's limit those that
//     they use count as available like all the rest: admitting a model may make
//     them read their files again, which shows as pressure.
//   - Without pressure stall information, to load a model that the kernel had
//     dropped looks like models that push each other out: background moves may wait
//     a few seconds after such a load for no reason.
package safety
