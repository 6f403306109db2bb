// Command servicemonitor holds a ServiceMonitor on stdin against the Prometheus operator's own types, and refuses what they do
// not know: the operator's cluster would drop it without a word.
package main

import (
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	var monitor monitoring.ServiceMonitor
	if err == nil {
		err = yaml.UnmarshalStrict(text, &monitor)
	}
	if err == nil && (monitor.Kind != "ServiceMonitor" || len(monitor.Spec.Endpoints) == 0) {
		err = fmt.Errorf("a %q with %d endpoints is no ServiceMonitor", monitor.Kind, len(monitor.Spec.Endpoints))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
