// Command standin is the engine of package gatewaytest as a program of its own, for tests
// of other modules, which run what they have built: standin gatewaytest-engine PORT NAME
// [PATH THAT IT LACKS]...
package main

import (
	"fmt"
	"os"

	"github.com/modeltier/modeltier/integrations/gateway/gatewaytest"
)

func main() {
	gatewaytest.Main()
	fmt.Fprintln(os.Stderr, "usage: standin gatewaytest-engine PORT NAME [PATH]...")
	os.Exit(2)
}
