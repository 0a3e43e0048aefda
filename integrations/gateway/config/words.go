package config

import (
	"errors"
	"fmt"
	"strings"
)

// splitWords splits a command into words as a POSIX shell does, without being one:
// blanks separate, and '…', "…" and \ quote. What only a shell could do, variables,
// pipes, patterns, is an error, where it is not quoted, and not an argument that
// was not meant.
func splitWords(command string) (words []string, err error) {
	var (
		word   strings.Builder
		inWord bool // also where the word is empty so far, as '' is one
		quote  byte // ' or " or, after a backslash, \; 0: none
		within bool // the backslash stands in "…"
	)
	has := func(set string, c byte) bool { return strings.IndexByte(set, c) >= 0 }
	for i := range len(command) {
		c := command[i] // all that means something is ASCII
		switch {
		case quote == '\\':
			if quote = 0; within {
				quote = '"'
			}
			if c == '\n' {
				continue // the line goes on
			}
			// In "…" a backslash stands for itself before all but these.
			if within && !has("$`\"\\", c) {
				word.WriteByte('\\')
			}
			word.WriteByte(c)
			inWord = true
		case quote == '\'' && c != '\'', quote == '"' && !has("\"\\$`", c):
			word.WriteByte(c)
		case c == quote:
			quote = 0
		case c == '\\':
			within = quote == '"'
			quote = '\\'
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote == 0 && has(" \t\r\n", c):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case has("$`", c), quote == 0 && has("|&;<>()*?[", c), !inWord && has("~#", c):
			return nil, fmt.Errorf("%q would have to be read by a shell, and none reads this: quote it as '%c', or write out what it stands for", c, c)
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	switch {
	case quote == '\\':
		return nil, errors.New("there is nothing after its last \\")
	case quote != 0:
		return nil, fmt.Errorf("a %c is not closed", quote)
	case inWord:
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("it is empty")
	}
	return words, nil
}
