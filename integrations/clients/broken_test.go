package clients

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

// An answer that is cut must not look like one that has ended: every client is told, on
// every face, whether it is translated or not.
func TestClients_EngineFailsInAStream_ClientIsTold(t *testing.T) {
	for way, without := range map[string][]string{"native": nil, "translated": {"/v1/messages", "/v1/responses"}} {
		url := faces(t, without...)
		client, messages := clientOf(url, option.WithMaxRetries(0)), anthropicOf(url)
		for _, fault := range []string{"close-mid-stream", "garbage-mid-stream", "500", "500-html"} {
			with := option.WithHeader("X-Fault", fault)
			for face, read := range map[string]func() error{
				"chat": func() error {
					stream := client.Chat.Completions.NewStreaming(t.Context(), chat(talker, told), with)
					for stream.Next() {
					}
					return stream.Err()
				},
				"completions": func() error {
					stream := client.Completions.NewStreaming(t.Context(), openai.CompletionNewParams{
						Model: talker, Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String(told)},
					}, with)
					for stream.Next() {
					}
					return stream.Err()
				},
				"responses": func() error {
					stream := client.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{
						Model: talker, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(told)},
					}, with)
					failed := false
					for stream.Next() { // it has an event of its own for it, which is no error to the client
						failed = failed || stream.Current().Type == "error" || stream.Current().Type == "response.failed"
					}
					if failed {
						return errors.New("an event says so")
					}
					return stream.Err()
				},
				"messages": func() error {
					stream := messages.Messages.NewStreaming(t.Context(), toldTo(anthropic.NewTextBlock(told)),
						anthropicoption.WithHeader("X-Fault", fault), anthropicoption.WithMaxRetries(0))
					for stream.Next() {
					}
					return stream.Err()
				},
			} {
				t.Run(way+"/"+face+"/"+fault, func(t *testing.T) {
					if err := read(); err == nil {
						t.Error("the client takes it for whole")
					}
				})
			}
		}
		idle(t, url)
	}
}

// An engine that crashes takes what it was answering with it. All other requests are
// answered, by the engine that is started after it: the gateway and the client's own
// retries see to that.
func TestClients_EnginesCrash_AllOtherRequestsAreAnswered(t *testing.T) {
	url := faces(t)
	client := clientOf(url)
	models := []string{talker, seer}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := range 4 {
				model, text := models[(i+n)%len(models)], fmt.Sprintf("client %d says %d", i, n)
				if i == 0 {
					fault := []string{"crash", "crash-mid-stream"}[n%2]
					_, err := client.Chat.Completions.New(t.Context(), chat(model, text), option.WithHeader("X-Fault", fault), option.WithMaxRetries(0))
					if err == nil {
						t.Errorf("%s: it was answered", fault)
					}
					continue
				}
				got, err := client.Chat.Completions.New(t.Context(), chat(model, text))
				if err != nil || got.Choices[0].Message.Content != text || got.Model != model {
					t.Errorf("%q to %s: %+v, %v", text, model, got, said(err))
				}
			}
		})
	}
	all.Wait()
	idle(t, url)
}
