// Package openai is the face that OpenAI's clients know, and what has grown around it:
// chat, completions, embeddings, responses, reranking, audio, images and the model list,
// with and without /v1.
package openai
