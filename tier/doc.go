// Package tier holds the vocabulary of modeltier and the contracts between its
// parts. It imports the standard library only and starts no goroutine.
//
// The three names that matter: [Model] is what is kept, [Tier] is where its
// weights are, and [View] is the immutable picture of the whole that a
// [Selector] and a [Placement] decide from.
//
// To extend modeltier, implement one of four small interfaces: [Selector],
// [Placement], [MemoryProbe] or [Mover]. What an implementation can do beyond its
// contract it offers through optional interfaces, which the Manager finds by type
// assertion when it is made. There is one polarity: absent means no. These are all
// of them:
//
//	part        interface         absent means                            called
//	Mover       Resident          a move that returned is believed        any goroutine, may do I/O
//	            Footprinter       a model takes what was declared         any goroutine, may do I/O
//	            Cacher            nothing of a model that left is cached  any goroutine, may do I/O
//	            Forecaster        a model is taken to need what it says   any goroutine, returns at once
//	            Divider           models move whole                       any goroutine, returns at once
//	            Leaver            no part of a model stays in storage     any goroutine, returns at once
//	            InPlacer          models are served from ram only         any goroutine, returns at once
//	            FileBacker        swap needs memory or a swap device      any goroutine, returns at once
//	            Instancer         a lease has no Instance                 any goroutine, returns at once
//	            ModelChecker      every valid model is accepted           any goroutine, returns at once
//	Probe       Overlay           it reads the bytes itself               once, before the first Memory
//	Placement   Valuer            the least recently used gives way       as Plan is
//	            Expecter          Manager.Forecast knows hints alone      as Plan is
//	            Predictor         a load takes the recorded 1.5 s a GB    as Plan is
//	            Hinter            hints are ignored                       as Plan is
//	            BinaryMarshaler   what it learned ends with the process   as Plan is
//	Placement,  Learner           it does not learn from use              one call at a time
//	Selector    Reporter          it does not learn from outcomes         one call at a time
//	any part    PartStatuser      Status.Parts does not list it           any goroutine, returns at once
//	            Closer            it holds no resources                   once, after the last other call
//
// Where there are several movers (Config.Movers), what each offers counts for the models
// that name it. "Any goroutine" means concurrently with Move and with each other. BinaryMarshaler
// is that of package encoding, together with its BinaryUnmarshaler. The doc of each
// interface is its contract; the suites of tier/tiertest check those that a part
// has. The examples of [Mover] show a Mover with none of them and one with several;
// [MoverFrom] makes one of the functions of an engine in this process.
// An error of a part may be a [Coder] and a [Suggester]; the Manager then passes on
// its word and its advice.
//
// The package does not promise thread safety for anything but what says so: values
// are plain values, and a [View] and a [Library] are never changed once published.
package tier
