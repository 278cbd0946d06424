// Package raw passes messages as they are on the wire.
package raw

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// Codec takes and gives a mem.BufferSlice.
type Codec struct{}

func (Codec) Name() string { return "raw" }

func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(mem.BufferSlice)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	message.Ref()
	return message, nil
}

func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*mem.BufferSlice)
	if !ok {
		return fmt.Errorf("%T is not a place for bytes", v)
	}
	data.Ref()
	*message = data
	return nil
}
