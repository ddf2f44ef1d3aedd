// Command pulumi-resource-aws serves the Terraform AWS provider as a Pulumi provider plugin.
//
// It is what the toolchain installs where the official plugin cannot be
// downloaded. One binary does both jobs, because linking the upstream provider
// costs a gigabyte each time:
//
//	pulumi-resource-aws schema --out DIR   writes schema.json and bridge-metadata.json
//	pulumi-resource-aws ...                serves, reading both from beside the executable
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"aws-bridge/provider"
	pf "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"
	pftfgen "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfgen"
)

func besideExecutable(name string) []byte {
	executable, err := os.Executable()
	if err == nil {
		var content []byte
		if content, err = os.ReadFile(filepath.Join(filepath.Dir(executable), name)); err == nil {
			return content
		}
	}
	fmt.Fprintf(os.Stderr, "pulumi-resource-aws: %v (write it with `pulumi-resource-aws schema --out DIR`)\n", err)
	os.Exit(1)
	return nil
}

func main() {
	ctx := context.Background()
	if len(os.Args) > 1 && os.Args[1] == "schema" {
		pftfgen.MainWithMuxer("aws", provider.Info(ctx, []byte("{}")))
		return
	}
	pf.MainWithMuxer(ctx, "aws", provider.Info(ctx, besideExecutable("bridge-metadata.json")), besideExecutable("schema.json"))
}
