package clients

import (
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
)

// The small llama.cpp has neither face.
func TestClients_RealEngine_MessagesAndResponsesByItsChat(t *testing.T) {
	url := engines["llama.cpp"](t)
	client, ctx := clientOf(url), t.Context()
	response, err := client.Responses.New(ctx, responses.ResponseNewParams{
		Model: small, MaxOutputTokens: openai.Int(5), Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(told)},
	})
	if err != nil || response.OutputText() == "" || response.Usage.OutputTokens != 5 || response.Usage.InputTokens == 0 {
		t.Errorf("response: %+v, %v", response, said(err))
	} else if response.Status != "incomplete" || response.IncompleteDetails.Reason != "max_output_tokens" {
		t.Errorf("response: it is cut, and says %s", response.RawJSON())
	}
	messages := anthropicOf(url)
	ask := toldTo(anthropic.NewTextBlock(told))
	ask.Model, ask.MaxTokens = small, 5
	whole, err := messages.Messages.New(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	var all anthropic.Message
	stream := messages.Messages.NewStreaming(ctx, ask)
	for stream.Next() {
		if err := all.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	for way, got := range map[string]*anthropic.Message{"whole": whole, "stream": &all} {
		if len(got.Content) != 1 || got.Content[0].Text == "" || got.StopReason != "max_tokens" || got.Usage.OutputTokens != 5 || got.Usage.InputTokens == 0 {
			t.Errorf("%s: %s", way, got.RawJSON())
		}
	}
	idle(t, url)
}
