package optimizer

// follows counts which models are asked for right after a model. It keeps the
// commonest few: a newcomer takes the place of the rarest and starts from its
// count (the Space-Saving sketch, Metwally and others, ICDT 2005), so that what
// is kept is at most overrated by what was forgotten.
type follows struct {
	who   [followers]int32 // ids; only those with a count are meant
	count [followers]float32
	total float32
}

const followers = 12

// followKeep is what an access leaves of the counts before it.
const followKeep = 0.998

// add notes that id came next.
func (f *follows) add(id int32) {
	rarest := 0
	for k := range f.count {
		f.count[k] *= followKeep
		if f.count[k] < f.count[rarest] {
			rarest = k
		}
	}
	f.total = f.total*followKeep + 1
	for k, who := range f.who {
		if who == id && f.count[k] > 0 {
			f.count[k]++
			return
		}
	}
	f.who[rarest] = id
	f.count[rarest]++
}

// share returns the estimated probability that id comes next out of n models:
// its share of the counts, with one count spread over all models beforehand.
func (f *follows) share(id int32, n int) float64 {
	c := float32(0)
	for k, who := range f.who {
		if who == id && f.count[k] > 0 {
			c = f.count[k]
			break
		}
	}
	prior := 1 / float64(max(n, 1))
	return (float64(c) + prior) / (float64(f.total) + 1)
}

// drop takes the ids that gone reports out of the counts.
func (f *follows) drop(gone func(id int32) bool) {
	for k, who := range f.who {
		if f.count[k] > 0 && gone(who) {
			f.total = max(f.total-f.count[k], 0)
			f.count[k] = 0
		}
	}
}
