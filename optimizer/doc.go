// Package optimizer decides which bytes of which models belong in which tier.
//
// The three names that matter: [New] returns the default placement, [Learned],
// which estimates how soon each model is asked for again and gives memory to the
// bytes that save the most waiting; [LRU], [LFU] and [GDSF] are the classic ones,
// whole models by one key; [Learned.Predict] says how long a move will take.
//
// Learned goes in four steps.
//
// Intensity: λ(t), the requests a second that are expected for a model, is a
// mixture of its decayed rates with time constants from 30 s to 7 days, the hazard
// of its own gaps, and a uniform prior. The weights are learned online by
// expectation maximisation on what was asked for (Cappé and Moulines, JRSS B
// 2009). A conditional logit (McFadden 1974) over the logarithms of these, of what
// follows what, of the hour of the day and of whether the model is overdue ranks
// the models. It sees them as a plan does, right after a request, and learns in
// what order they were asked for since (Plackett, Applied Statistics 1975): from
// each request by a step of AdaGrad (Duchi and others, JMLR 2011) for what came
// next and one for what came soon. Its bits of surprise by request are what is
// reported of how predictable the traffic is.
//
// Value: a byte of a model is worth λ times the seconds for each byte that it
// saves at a request over the tier below. Those seconds are measured, by medians of
// the last moves of the model and of the device.
//
// Arrangement: by falling value ram is filled, then swap; the model at the margin
// is cut, and for those that cannot be cut branch and bound improves on the
// filling, as in a knapsack (Martello and Toth 1990). Bytes that nobody waits for
// change places only where the waiting saved until the first of the two is asked
// for outweighs the reading, and only as far as such moves have paid before.
//
// Guard: five estimates, recency among them, each keep a shadow account of where
// bytes would be, and the real placement follows the one that waited least over
// the last thousand requests: the best expert, with fading memory (Herbster and
// Warmuth, Machine Learning 1998). Hints are weighed by how often they came true.
//
// It does not promise to be better than recency on every request, only not to be
// much worse for long; and it knows nothing of a model before it was asked for but
// its size and its home tier. Package offline computes what it is measured by.
package optimizer
