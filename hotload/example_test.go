package hotload_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// The owner of a job does the work under its context and ends it with Finish;
// everybody else sees the Job.
func ExampleJobs() {
	jobs := hotload.NewJobs(0)
	work := jobs.Start(context.Background(), hotload.Spec{
		Kind: hotload.KindLoad, Model: "llama-7b", To: tier.RAM, Total: 7 * tier.GiB,
	})
	job := work.Job()

	work.Progressed(3 * tier.GiB)
	fmt.Printf("%v %.0f %%\n", job.State(), 100*job.Progress().Fraction)

	job.Cancel(errors.New("no request waits for it"))
	<-work.Context().Done()
	work.Finish(context.Cause(work.Context()))
	fmt.Println(job.State(), job.Wait(context.Background()))
	// Output:
	// running 43 %
	// cancelled no request waits for it
}

// A file that is cut short says by how much.
func ExampleInspect() {
	dir, err := os.MkdirTemp("", "models")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "tiny.safetensors")
	header := `{"weight":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}`
	file := append([]byte{byte(len(header)), 0, 0, 0, 0, 0, 0, 0}, header...)
	if err := os.WriteFile(path, append(file, 1, 2, 3, 4, 5, 6, 7, 8), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	info, err := hotload.Inspect(path)
	fmt.Println(info.Name, info.Format, info.Quantisation, info.Parameters, err)

	os.Truncate(path, int64(len(file)+5))
	_, err = hotload.Inspect(path)
	fault, _ := errors.AsType[*hotload.FileError](err)
	fmt.Println(fault.Missing, fault.Reason)
	// Output:
	// tiny safetensors F16 4 <nil>
	// 3 B is truncated: 3 bytes (3 B) are missing of 8 of data
}
