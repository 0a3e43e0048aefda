// Package mapped is the default tier.Mover: it maps weight files into memory
// and moves them by paging them in and out. Any file will do, or a folder of
// shards. The pages are shared with every other process that maps or reads the
// same files, so a load here is a load there.
//
//   - ram: every page is present, seen to be so, and locked as far as the
//     process may lock memory. What cannot be locked is looked at from time to
//     time and read again where the kernel took it.
//   - swap: mapped and usable at once. Move.Keep bytes are present, the first
//     of the model, to the whole page below, for as long as the kernel does not
//     need them; the rest was dropped, to be read from the file when it is touched.
//     Nothing is written to a swap device.
//   - storage: not mapped, and dropped from the page cache.
//
// The three names that matter: [Mover] moves, [Mover.Bytes] gives the weights to
// whoever holds a lease, and [Mover.Status] tells which ways are in use and what
// could not be done.
//
// How a device is read best (how many reads at once, through the mapping or
// beside it) is measured on the loads themselves and remembered per device.
// Every call that a kernel may lack (MADV_POPULATE_READ before 5.14, cachestat
// before 6.5) has a fallback, and [Status] names the way in use.
//
// What the package does not promise: that pages go when somebody else maps them
// too, or where the filesystem keeps them (tmpfs, some network and FUSE
// filesystems). What is left is seen by [Mover.Resident] and so stays charged.
// Of files that the process neither owns nor may write, the kernel tells nobody
// what is cached; Status says so. Outside Linux pages can be neither dropped,
// locked nor counted: there the package maps, reads ahead, and leaves the rest
// to the system.
package mapped
