package optimizer

func (l *Learned) Dbg() {
	println("expected", int(l.yield.expected), "brought", int(l.yield.brought), "factor%", int(100*l.yield.factor()), "disp*1e6", int(1e6*l.displaced.rate(5e9, l.est.now)), "dropped", int(1e6*l.dropped.rate(15e9, l.est.now)), l.guard.following.String())
}
