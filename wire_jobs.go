package modeltier

import (
	"context"
	"fmt"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

type hotLoadAnswer struct {
	Status   string `json:"status"`
	JobID    string `json:"job_id"`
	Model    string `json:"model_name"`
	Estimate string `json:"estimated_time"`
}

func (m *Manager) answerHotLoad(ctx context.Context, model *tier.Model) any {
	if err := m.checkPath(model); err != nil {
		return errorAnswer(err)
	}
	job, err := m.HotLoad(ctx, *model)
	if err != nil {
		return errorAnswer(err)
	}
	return &hotLoadAnswer{"hot_load_started", job.ID(), model.Name, fmt.Sprintf("%.1fs", job.Estimate().Seconds())}
}

// checkPath makes the path of a hot load one inside the ModelDir.
func (m *Manager) checkPath(model *tier.Model) error {
	if m.cfg.ModelDir == "" || model.Path == "" {
		return nil
	}
	path, err := hotload.Resolve(m.cfg.ModelDir, model.Path)
	if err == nil {
		model.Path = path
	}
	return err
}

type loadJobAnswer struct {
	JobID    string  `json:"job_id"`
	Model    string  `json:"model_name"`
	Status   string  `json:"status"`
	Progress float64 `json:"progress"`
	Elapsed  float64 `json:"elapsed_time"`
	Error    *string `json:"error"`
	Code     string  `json:"code,omitempty"`
}

// jobStatus is a job's state on the wire, where running loads are "loading" and
// cancelled jobs have failed.
func jobStatus(j *Job, running string) (status string, failure *string, code string) {
	switch j.State() {
	case hotload.Running:
		return running, nil, ""
	case hotload.Success:
		return "success", nil, ""
	}
	text := j.Err().Error()
	return "failed", &text, tier.Code(j.Err())
}

func (m *Manager) answerLoadJob(id string) any {
	j, ok := m.Job(id)
	if !ok || j.Kind() != hotload.KindLoad {
		return errorAnswer(&tier.NotFoundError{What: "job", Name: id})
	}
	a := &loadJobAnswer{JobID: j.ID(), Model: j.Model(), Progress: j.Progress().Fraction, Elapsed: j.Elapsed().Seconds()}
	a.Status, a.Error, a.Code = jobStatus(j, "loading")
	return a
}

type moveAnswer struct {
	Status    string    `json:"status"`
	JobID     string    `json:"job_id"`
	Model     string    `json:"model_name"`
	Operation string    `json:"operation"`
	From      tier.Tier `json:"source_tier"`
	To        tier.Tier `json:"target_tier"`
}

func (m *Manager) answerMove(ctx context.Context, mv *moveRequest) any {
	job, err := m.MoveTier(ctx, mv.model, mv.to)
	if err != nil {
		return errorAnswer(err)
	}
	return &moveAnswer{"tier_move_started", job.ID(), mv.model, operationOf(job), job.From(), job.To()}
}

func operationOf(j *Job) string {
	switch {
	case j.Kind() != hotload.KindOptimize:
		return j.Kind().String()
	case j.To() < j.From():
		return hotload.KindDemote.String()
	}
	return hotload.KindPromote.String()
}

type moveJobAnswer struct {
	JobID     string    `json:"job_id"`
	Model     string    `json:"model_name"`
	Operation string    `json:"operation"`
	From      tier.Tier `json:"source_tier"`
	To        tier.Tier `json:"target_tier"`
	Progress  float64   `json:"progress"`
	Status    string    `json:"status"`
	Elapsed   float64   `json:"elapsed_time"`
	Estimate  float64   `json:"estimated_time"`
	Error     *string   `json:"error"`
	Code      string    `json:"code,omitempty"`
}

func (m *Manager) answerMoveJob(id string) any {
	j, ok := m.Job(id)
	if !ok || j.Kind() == hotload.KindLoad {
		return errorAnswer(&tier.NotFoundError{What: "job", Name: id})
	}
	a := &moveJobAnswer{
		JobID: j.ID(), Model: j.Model(), Operation: operationOf(j), From: j.From(), To: j.To(),
		Progress: j.Progress().Fraction, Elapsed: j.Elapsed().Seconds(), Estimate: j.Estimate().Seconds(),
	}
	a.Status, a.Error, a.Code = jobStatus(j, "running")
	return a
}
