// Package gateway is an HTTP front end over a modeltier.Manager: the clients of OpenAI
// and Anthropic ask for a model, and an engine that is a program answers, once its model
// is ready.
package gateway
