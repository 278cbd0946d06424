package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// claims are those of a service account's token that matter here.
type claims struct {
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expiry   int64    `json:"exp"`
}

// review answers a TokenReview as Kubernetes would, but that signatures are not looked at.
func review(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, http.StatusBadRequest)
		return
	}
	// In JSON or protobuf, as the client likes.
	asked, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	review, ok := asked.(*authentication.TokenReview)
	if err != nil || !ok {
		fail(w, http.StatusUnprocessableEntity)
		return
	}
	review.TypeMeta = meta.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/v1"}
	token, err := read(review.Spec.Token, review.Spec.Audiences)
	if err != nil {
		review.Status = authentication.TokenReviewStatus{Error: err.Error()}
	} else {
		groups := []string{"system:serviceaccounts", "system:authenticated"}
		user := authentication.UserInfo{Username: token.Subject, Groups: groups}
		review.Status = authentication.TokenReviewStatus{Authenticated: true, User: user, Audiences: review.Spec.Audiences}
	}
	answer(w, http.StatusCreated, review)
}

// read takes the claims from a token that is valid now, and for one of the audiences.
func read(token string, audiences []string) (found claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return found, errors.New("not a token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return found, err
	}
	if err := json.Unmarshal(payload, &found); err != nil {
		return found, err
	}
	isFor := func(audience string) bool { return slices.Contains(audiences, audience) }
	switch {
	case !strings.HasPrefix(found.Subject, "system:serviceaccount:"):
		return found, errors.New("not of a service account")
	case found.Expiry <= time.Now().Unix():
		return found, errors.New("token has expired")
	case !slices.ContainsFunc(found.Audience, isFor):
		return found, errors.New("token is for other audiences")
	}
	return found, nil
}
