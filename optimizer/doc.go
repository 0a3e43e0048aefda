// Package optimizer decides which bytes of which models belong in which tier.
//
// The three names that matter: [New] returns the default placement, [Learned],
// which estimates how soon each model is asked for again and gives memory to the
// bytes that save the most waiting; [LRU] is the classic one that it is measured
// against; [Learned.Predict] says how long a move will take.
//
// Learned plans in three steps.
//
// Intensity: λ(t), the requests a second that are expected for a model, is a
// mixture of its decayed rates with time constants from 30 s to 7 days, the hazard
// of its own gaps, and a uniform prior. The weights are learned online by
// expectation maximisation on what was asked for (Cappé and Moulines, JRSS B
// 2009). A conditional logit (McFadden 1974) over the logarithms of these, and of
// whether the model is overdue, ranks the models. It sees them as a plan does, right
// after a request, and learns in what order they were asked for since (Plackett,
// Applied Statistics 1975): from each request by a step of AdaGrad (Duchi and
// others, JMLR 2011) for what came next and one for what came soon. Its bits of
// surprise per request say how predictable the traffic is. Hints add to λ, weighted
// by how often they came true.
//
// Value: a byte of a model is worth λ times the seconds for each byte that it
// saves at a request over the tier below. Those seconds are measured, by medians of
// the last moves of the model and of its mover's others.
//
// Arrangement: ram is filled by falling value, then swap. The model at the margin
// is cut; for models that cannot be cut, branch and bound improves on the filling,
// as in a knapsack (Martello and Toth 1990). While no request waits, bytes change
// places only if the waiting saved until the first of the two is asked for
// outweighs the reading.
//
// [Hours] and a [Schedule] are how the owner of a Manager says when models are expected,
// and when nothing is to move in the background; the Manager makes hints of them.
// [Learned.Expect] is what a forecast goes by.
//
// It does not promise to be better than LRU on every request or on any traffic, and
// it knows nothing of a model that was never asked for but its size and its home
// tier. What each part brings, measured on recorded traffic, is in
// benchmarks/README.md.
package optimizer
