package gatewaytest

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"slices"
	"strings"
)

// inputs are the texts of an embedding's request.
func inputs(body object) (all []string) {
	for _, key := range []string{"input", "content"} {
		if s, ok := body[key].(string); ok {
			return []string{s}
		}
		for _, v := range body.list(key) {
			s, _ := v.(string)
			all = append(all, s)
		}
	}
	return all
}

// vector is three numbers that tell texts apart: of length one, from the text's length and
// the sum of its bytes.
func vector(text string) []float32 {
	sum := 0
	for _, b := range []byte(text) {
		sum += int(b)
	}
	x, y, z := 1.0, float64(len(text)), float64(sum)/100
	length := math.Sqrt(x*x + y*y + z*z)
	return []float32{float32(x / length), float32(y / length), float32(z / length)}
}

func words(texts ...string) (n int) {
	for _, t := range texts {
		n += len(strings.Fields(t))
	}
	return n
}

func (e Engine) embeddings(w http.ResponseWriter, _ *http.Request, body object) {
	texts := inputs(body)
	if len(texts) == 0 {
		refuse(w, http.StatusBadRequest, `"input" or "content" must be provided`)
		return
	}
	var data []any
	for i, text := range texts {
		d := object{"embedding": vector(text), "index": i, "object": "embedding"}
		if body["encoding_format"] == "base64" {
			b, _ := binary.Append(nil, binary.LittleEndian, vector(text))
			d["embedding"], d["encoding_format"] = base64.StdEncoding.EncodeToString(b), "base64"
		}
		data = append(data, d)
	}
	n := words(texts...)
	reply(w, object{"model": e.Name, "object": "list", "usage": object{"prompt_tokens": n, "total_tokens": n}, "data": data})
}

// plainEmbeddings is llama.cpp's own, with the vectors of all tokens.
func (e Engine) plainEmbeddings(w http.ResponseWriter, _ *http.Request, body object) {
	var all []any
	for i, text := range inputs(body) {
		all = append(all, object{"index": i, "embedding": [][]float32{vector(text)}})
	}
	reply(w, all)
}

// rerank scores a document by how many words it shares with the query.
func (e Engine) rerank(w http.ResponseWriter, _ *http.Request, body object) {
	query, documents := body.text("query"), body.list("documents")
	if query == "" || len(documents) == 0 {
		refuse(w, http.StatusBadRequest, `"query" and "documents" must be provided`)
		return
	}
	var results []object
	n := words(query)
	for i, d := range documents {
		document, _ := d.(string)
		n += words(document)
		score := 0.0
		for _, word := range strings.Fields(document) {
			if slices.Contains(strings.Fields(query), word) {
				score++
			}
		}
		results = append(results, object{"index": i, "relevance_score": score})
	}
	slices.SortStableFunc(results, func(a, b object) int {
		return cmp.Compare(b["relevance_score"].(float64), a["relevance_score"].(float64))
	})
	if top, ok := body["top_n"].(float64); ok && top >= 0 && int(top) < len(results) {
		results = results[:int(top)]
	}
	reply(w, object{"model": e.Name, "object": "list", "usage": object{"prompt_tokens": n, "total_tokens": n}, "results": results})
}

// tokenize has a token for each code point.
func (e Engine) tokenize(w http.ResponseWriter, _ *http.Request, body object) {
	tokens := []any{}
	for _, c := range body.text("content") {
		if body.is("with_pieces") {
			tokens = append(tokens, object{"id": c, "piece": string(c)})
		} else {
			tokens = append(tokens, c)
		}
	}
	reply(w, object{"tokens": tokens})
}

func (e Engine) detokenize(w http.ResponseWriter, _ *http.Request, body object) {
	var text strings.Builder
	for _, t := range body.list("tokens") {
		c, _ := t.(float64)
		text.WriteRune(rune(c))
	}
	reply(w, object{"content": text.String()})
}

func (e Engine) applyTemplate(w http.ResponseWriter, _ *http.Request, body object) {
	var all strings.Builder
	for _, m := range body.list("messages") {
		m, _ := m.(map[string]any)
		text, _ := content(m["content"])
		all.WriteString("<|" + object(m).text("role") + "|>" + text)
	}
	reply(w, object{"prompt": all.String() + "<|assistant|>"})
}
