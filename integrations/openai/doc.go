// Package openai has no code: its tests hold the example server against OpenAI's
// own client library, with a stand-in engine and with a real llama.cpp.
package openai
