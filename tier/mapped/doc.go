// Package mapped is the default tier.Mover: it maps weight files into memory and
// moves models by paging their files in and out. A model is any file, or a folder
// of shards. Every process that maps or reads the same files shares the pages, and
// so a load.
//
//   - ram: every page is seen to be present and is mlocked, as far as the process
//     may lock memory. Unlocked pages are checked at intervals and read again if
//     the kernel reclaimed them.
//   - swap: mapped and usable at once. The first Move.Keep bytes, rounded down to
//     whole pages, stay present until the kernel needs the memory. The rest is read
//     from the file on a fault. Nothing is written to a swap device.
//   - storage: not mapped.
//
// What a model that gives way does not keep stays in the page cache, charged to no
// model and the first that the kernel takes, so that moves down drop nothing and the
// next load reads only what is gone. [Mover.Cached] counts such bytes, and
// [Mover.Uncache] drops them when the memory is needed.
//
// The three names that matter: [Mover] moves models, [Weights] are those of a leased
// model, and [Mover.Status] tells which calls are in use and what could not be done.
//
// Loads measure how each device is read fastest (how many reads at once, through
// the mapping or with pread). Calls that a kernel may lack (MADV_POPULATE_READ
// before 5.14, cachestat before 6.5) have fallbacks.
//
// Not promised: that pages go if another process maps them, or on filesystems that
// keep them. Files of tmpfs are memory in any tier: [Mover.Resident] counts them and
// they remain charged. For files that the process neither owns nor may write, the
// kernel does not tell what is cached; Status says so. Outside Linux pages can be
// neither dropped, locked nor counted: the package maps files, reads them, and leaves
// the rest to the operating system.
package mapped
