package demo

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// token is one that the tokenizer knows.
type token struct {
	text string
	kind uint32
}

// Kinds of tokens. Source: enum llama_token_type in llama.h.
const (
	normalToken  = 1
	unknownToken = 2
	controlToken = 3
	byteToken    = 6
)

// words are what the tokenizer knows whole, and what the models say.
const words = "the a of and to in is it that was for on are as with his they at be this have from or one had by word but not what all were we when your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into time has look two more write go see number no way could people my than first water been call who oil its now find long down day did get come made may part over new sound take only little work know place year live me back give most very after thing our just name good sentence man think say great where help through much before line right too mean old any same tell boy follow came want show also around form three small set put end does another well large must big even such because turn here why ask went men read need land different home us move try kind hand picture again change off play spell air away animal house point page letter mother answer found study still learn should world"

// vocabulary returns the tokens, and how many of them are no words: they stand
// first. A word is put together from its letters on the way in, by way of all its
// beginnings, which are tokens too.
var vocabulary = sync.OnceValues(func() (all []token, others int) {
	all = []token{{"<unk>", unknownToken}, {"<s>", controlToken}, {"</s>", controlToken}}
	for i := range 256 {
		all = append(all, token{fmt.Sprintf("<0x%02X>", i), byteToken})
	}
	known := map[string]bool{}
	add := func(text string) {
		if !known[text] {
			known[text] = true
			all = append(all, token{text, normalToken})
		}
	}
	const blank = "▁"
	add(blank)
	for c := 'a'; c <= 'z'; c++ {
		add(string(c))
	}
	list := strings.Fields(words)
	for _, word := range list {
		for n := 1; n < len(word); n++ {
			if !slices.Contains(list, word[:n]) {
				add(blank + word[:n])
			}
		}
	}
	for n := 0; (len(all)+len(list))%16 != 0; n++ { // rows in sixteens need no padding
		add(fmt.Sprintf("<%d>", n))
	}
	others = len(all)
	for _, word := range list {
		add(blank + word)
	}
	return all, others
})
