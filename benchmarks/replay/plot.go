package main

import (
	"bytes"
	"fmt"
	"html"
)

// plot draws mean waits as bars, a group for each trace and machine, LRU's wait
// being the full height.
func plot(rows []row) []byte {
	colours := map[string]string{"lru": "#9aa0a6", "lfu": "#c7a252", "gdsf": "#7c9ec4", "learned": "#2f7d4f", "bound": "#d9d2c5"}
	const bar, gap, height, head, foot = 16, 14, 200, 40, 90
	type group struct {
		title string
		rows  []row
	}
	var groups []group
	for _, r := range rows {
		title := fmt.Sprint(r.run.trace.name, " ", r.run.capacity)
		if n := len(groups); n == 0 || groups[n-1].title != title {
			groups = append(groups, group{title: title})
		}
		g := &groups[len(groups)-1]
		g.rows = append(g.rows, r)
	}
	width := 60
	for _, g := range groups {
		width += len(g.rows)*bar + gap
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", width, head+height+foot)
	fmt.Fprintf(&b, `<text x="8" y="18">mean wait, LRU = 1</text>`+"\n")
	x := 40
	for _, g := range groups {
		from := x
		for _, r := range g.rows {
			h := min(r.vsLRU, 1.5) / 1.5 * height
			fmt.Fprintf(&b, `<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="%s"><title>%s: %.3f s, %.3f of LRU</title></rect>`+"\n",
				x, head+height-h, bar-2, h, colours[r.run.policy], html.EscapeString(r.run.policy), r.Mean, r.vsLRU)
			x += bar
		}
		fmt.Fprintf(&b, `<text transform="translate(%d,%d) rotate(40)">%s</text>`+"\n", from, head+height+14, html.EscapeString(g.title))
		x += gap
	}
	at := 260
	for _, name := range [...]string{"lru", "lfu", "gdsf", "learned", "bound"} {
		fmt.Fprintf(&b, `<rect x="%d" y="9" width="10" height="10" fill="%s"/><text x="%d" y="18">%s</text>`+"\n", at, colours[name], at+14, name)
		at += 70
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
