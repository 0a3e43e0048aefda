package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

// told is what the stand-in is told, and therefore says.
const told = "tell me of the sea"

// natively are engines with a path and without it, where it is translated to their chat.
func natively(path string) map[string][]string {
	return map[string][]string{"native": nil, "translated": {path}}
}

// argument is what the stand-in calls a tool with.
func argument(t *testing.T, arguments string) string {
	t.Helper()
	var in struct{ Text string }
	if err := json.Unmarshal([]byte(arguments), &in); err != nil {
		t.Errorf("the tool's arguments %q: %v", arguments, err)
	}
	return in.Text
}

// parameters are a tool's.
var parameters = map[string]any{"type": "object", "properties": map[string]any{"text": map[string]any{"type": "string"}}}

func TestOpenAI_Tools_AreCalledAndAnswered(t *testing.T) {
	client, ctx := clientOf(faces(t)), t.Context()
	ask := openai.ChatCompletionNewParams{
		Model: talker, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(told)},
		Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "look_up", Parameters: parameters})},
	}
	whole, err := client.Chat.Completions.New(ctx, ask)
	if err != nil {
		t.Fatal(said(err))
	}
	var all openai.ChatCompletionAccumulator
	stream := client.Chat.Completions.NewStreaming(ctx, ask)
	for stream.Next() {
		all.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(said(err))
	}
	for way, choices := range map[string][]openai.ChatCompletionChoice{"whole": whole.Choices, "stream": all.Choices} {
		if len(choices) != 1 || choices[0].FinishReason != "tool_calls" || len(choices[0].Message.ToolCalls) != 1 {
			t.Fatalf("%s: %+v", way, choices)
		}
		call := choices[0].Message.ToolCalls[0]
		if call.ID == "" || call.Function.Name != "look_up" || argument(t, call.Function.Arguments) != told {
			t.Errorf("%s: the call %+v", way, call)
		}
	}
	message := whole.Choices[0].Message
	ask.Messages = append(ask.Messages, message.ToParam(), openai.ToolMessage("deep and blue", message.ToolCalls[0].ID))
	got, err := client.Chat.Completions.New(ctx, ask)
	if err != nil || got.Choices[0].Message.Content != "deep and blue" {
		t.Errorf("after the result: %+v, %v", got, said(err))
	}
}

func TestOpenAI_Responses(t *testing.T) {
	for way, without := range natively("/v1/responses") {
		t.Run(way, func(t *testing.T) {
			client, ctx := clientOf(faces(t, without...)), t.Context()
			ask := responses.ResponseNewParams{
				Model: talker, Instructions: openai.String("Be brief."), Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(told)},
			}
			streamed := func() *responses.Response {
				t.Helper()
				var last *responses.Response
				text := ""
				stream := client.Responses.NewStreaming(ctx, ask)
				for stream.Next() {
					switch e := stream.Current().AsAny().(type) {
					case responses.ResponseTextDeltaEvent:
						text += e.Delta
					case responses.ResponseCompletedEvent:
						last = &e.Response
					}
				}
				if err := stream.Err(); err != nil || last == nil || text != last.OutputText() {
					t.Fatalf("stream: %q, completed %+v, %v", text, last, said(err))
				}
				return last
			}
			whole, err := client.Responses.New(ctx, ask)
			if err != nil {
				t.Fatal(said(err))
			}
			for way, got := range map[string]*responses.Response{"whole": whole, "stream": streamed()} {
				if got.OutputText() != told || got.Status != "completed" || got.Usage.InputTokens == 0 || got.Usage.OutputTokens != 5 {
					t.Errorf("%s: %s", way, got.RawJSON())
				}
			}

			ask.Tools = []responses.ToolUnionParam{responses.ToolParamOfFunction("look_up", parameters, false)}
			if whole, err = client.Responses.New(ctx, ask); err != nil {
				t.Fatal(said(err))
			}
			for way, got := range map[string]*responses.Response{"whole": whole, "stream": streamed()} {
				if len(got.Output) != 1 || got.Output[0].Name != "look_up" || got.Output[0].CallID == "" || argument(t, got.Output[0].Arguments.OfString) != told {
					t.Errorf("%s, a tool: %s", way, got.RawJSON())
				}
			}
			call := whole.Output[0].AsFunctionCall()
			ask.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{
				responses.ResponseInputItemParamOfMessage(told, responses.EasyInputMessageRoleUser),
				responses.ResponseInputItemParamOfFunctionCall(call.Arguments, call.CallID, call.Name),
				{OfFunctionCallOutput: &responses.ResponseInputItemFunctionCallOutputParam{
					CallID: openai.String(call.CallID),
					Output: responses.ResponseInputItemFunctionCallOutputOutputUnionParam{OfString: openai.String("deep and blue")},
				}},
			}}
			if got, err := client.Responses.New(ctx, ask); err != nil || got.OutputText() != "deep and blue" {
				t.Errorf("after the result: %+v, %v", got, said(err))
			}
		})
	}
}

// What is asked for picks the model: nothing but its path or content says which.
func TestOpenAI_Auto_TakesAModelThatIsAbleTo(t *testing.T) {
	client, ctx := clientOf(faces(t)), t.Context()
	var by *http.Response
	into := option.WithResponseInto(&by)
	image := openai.ChatCompletionNewParams{Model: "auto", Messages: []openai.ChatCompletionMessageParamUnion{
		openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{
			openai.TextContentPart(told),
			openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "data:image/png;base64,aGk="}),
		}),
	}}
	got, err := client.Chat.Completions.New(ctx, image, into)
	if err != nil || got.Choices[0].Message.Content != told+" (images: 1)" || by.Header.Get("X-Model") != seer {
		t.Errorf("an image: %+v by %v, %v", got, by, said(err))
	}
	embedding, err := client.Embeddings.New(ctx, openai.EmbeddingNewParams{
		Model: "auto", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"water", "fire"}},
	}, into)
	if err != nil || len(embedding.Data) != 2 || len(embedding.Data[1].Embedding) != 3 || by.Header.Get("X-Model") != embedder {
		t.Errorf("embeddings: %+v by %v, %v", embedding, by, said(err))
	}
}

func TestOpenAI_Sound_BothWays(t *testing.T) {
	client, ctx := clientOf(faces(t)), t.Context()
	res, err := client.Audio.Speech.New(ctx, openai.AudioSpeechNewParams{Model: speaker, Input: told, Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")}})
	if err != nil {
		t.Fatal(said(err))
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "sound of: "+told || res.Header.Get("Content-Type") != "audio/mpeg" {
		t.Errorf("speech: %q %v, %v", b, res.Header, err)
	}
	file := func() io.Reader { return openai.File(strings.NewReader(told), "x.wav", "audio/wav") }
	text, err := client.Audio.Transcriptions.New(ctx, openai.AudioTranscriptionNewParams{Model: listener, File: file()})
	if err != nil || text.Text != told {
		t.Errorf("transcription: %+v, %v", text, said(err))
	}
	heard := ""
	stream := client.Audio.Transcriptions.NewStreaming(ctx, openai.AudioTranscriptionNewParams{Model: listener, File: file()})
	for stream.Next() {
		heard += stream.Current().Delta
	}
	if err := stream.Err(); err != nil || heard != told {
		t.Errorf("stream: %q, %v", heard, said(err))
	}
}

func TestOpenAI_Images_MadeAndEdited(t *testing.T) {
	client, ctx := clientOf(faces(t)), t.Context()
	check := func(what string, got *openai.ImagesResponse, err error, want string) {
		t.Helper()
		if err != nil || len(got.Data) != 1 {
			t.Errorf("%s: %+v, %v", what, got, said(err))
			return
		}
		if b, err := base64.StdEncoding.DecodeString(got.Data[0].B64JSON); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", what, b, err, want)
		}
	}
	made, err := client.Images.Generate(ctx, openai.ImageGenerateParams{Model: painter, Prompt: told})
	check("made", made, err, "picture of: "+told)
	edited, err := client.Images.Edit(ctx, openai.ImageEditParams{
		Model: painter, Prompt: "brighter",
		Image: openai.ImageEditParamsImageUnion{OfFile: openai.File(strings.NewReader("a cat"), "cat.png", "image/png")},
	})
	check("edited", edited, err, "brighter: a cat")
}

// OpenAI has no rerank and none of llama-server's own paths: they are asked by HTTP alone.
func TestHTTP_PathsThatOnlyEnginesHave(t *testing.T) {
	url := faces(t)
	for _, c := range []struct{ path, body, want string }{
		{"/v1/rerank", `{"model":%q,"query":"a bear","documents":["hi","a bear"],"top_n":1}`, `"results":[{"index":1,"relevance_score":2}]`},
		{"/rerank", `{"model":%q,"query":"a bear","documents":["hi","a bear"]}`, `"index":0`},
		{"/v1/reranking", `{"model":%q,"query":"a bear","documents":["hi","a bear"]}`, `"index":0`},
		{"/infill", `{"model":%q,"input_prefix":"a","prompt":"b","input_suffix":"c"}`, `"content":"a b c"`},
		{"/tokenize", `{"model":%q,"content":"é!"}`, `{"tokens":[233,33]}`},
		{"/chat/completions", `{"model":%q,"messages":[{"role":"user","content":"hi there"}]}`, `"content":"hi there"`},
	} {
		model := talker
		if strings.Contains(c.path, "rerank") {
			model = ranker
		}
		res, err := http.Post(url+c.path, "application/json", strings.NewReader(fmt.Sprintf(c.body, model)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(b, []byte(c.want)) {
			t.Errorf("%s: %d %s, %v; want %s", c.path, res.StatusCode, b, err, c.want)
		}
	}
	res, err := http.Get(url + "/props?model=" + talker)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || !bytes.Contains(b, []byte(`"total_slots":1`)) {
		t.Errorf("/props: %d %s, %v", res.StatusCode, b, err)
	}
}

func TestOpenAI_Models_SayWhatTheyAreAbleTo(t *testing.T) {
	client, ctx := clientOf(faces(t)), t.Context()
	list, err := client.Models.List(ctx)
	if err != nil || len(list.Data) != 7 {
		t.Fatalf("%+v, %v", list, said(err))
	}
	m, err := client.Models.Get(ctx, seer)
	if err != nil || m.ID != seer || m.Created == 0 || !strings.Contains(m.RawJSON(), "vision") {
		t.Errorf("%s, %v", m.RawJSON(), said(err))
	}
}
