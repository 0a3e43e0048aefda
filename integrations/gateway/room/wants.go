package room

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// What a model must be able to do to answer a path, in the words that hotload has from the
// headers of models; for speech, which it does not know, in those of model hubs.
const (
	textGeneration  = "text-generation"
	embeddings      = "embeddings"
	reranking       = "reranking"
	transcription   = "transcription"
	textToSpeech    = "text-to-speech"
	imageGeneration = "image-generation"
	vision          = "vision"
	audio           = "audio"
)

// pathWants are the paths, without the /v1 before them, that say what is wanted.
var pathWants = map[string]string{
	"/chat/completions":      textGeneration,
	"/completions":           textGeneration,
	"/completion":            textGeneration,
	"/responses":             textGeneration,
	"/messages":              textGeneration,
	"/messages/count_tokens": textGeneration,
	"/infill":                textGeneration,
	"/apply-template":        textGeneration,
	"/embeddings":            embeddings,
	"/rerank":                reranking,
	"/reranking":             reranking,
	"/audio/transcriptions":  transcription,
	"/audio/speech":          textToSpeech,
	"/images/generations":    imageGeneration,
	"/images/edits":          imageGeneration,
}

// Wants returns the capabilities that a request needs of a model that is selected for it,
// by its path and by what its messages hold: a model that sees for an image, one that hears
// for a recording. body may be anything; what is not JSON holds nothing. "/v1" and "/v"
// before the path count for nothing, and a path that is not known wants nothing.
func Wants(path string, body []byte) []string {
	if short, ok := strings.CutPrefix(path, "/v1/"); ok {
		path = "/" + short
	} else if short, ok := strings.CutPrefix(path, "/v/"); ok {
		path = "/" + short
	}
	word := pathWants[path]
	if word == "" {
		return nil
	}
	wants := []string{word}
	if word == textGeneration {
		images, recordings := media(body)
		if images {
			wants = append(wants, vision)
		}
		if recordings {
			wants = append(wants, audio)
		}
	}
	return wants
}

// partTypes are the types of parts of a message that are an image or a recording: OpenAI's
// chat, its responses, Anthropic's messages.
var partTypes = map[string]string{"image_url": vision, "input_image": vision, "image": vision, "input_audio": audio, "audio_url": audio}

// media reports whether the messages of a body have images and recordings in them.
func media(body []byte) (images, recordings bool) {
	// Where it is not valid, the engine says so.
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return images, recordings
		}
		depth := dec.StackDepth()
		if kind, n := dec.StackIndex(depth); kind != '{' || n%2 == 0 || token.Kind() != '"' {
			continue // it is no name
		}
		switch name := token.String(); {
		case depth == 1 && name != "messages" && name != "input",
			depth > 1 && name == "input": // of a tool
			err = dec.SkipValue()
		case depth > 1 && name == "type" && dec.PeekKind() == '"':
			token, err = dec.ReadToken()
			if err == nil {
				what := partTypes[token.String()]
				images, recordings = images || what == vision, recordings || what == audio
			}
		}
		if err != nil {
			return images, recordings
		}
	}
}
