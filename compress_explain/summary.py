def print_run(run, places): 
    import json; print(json.dumps({k:run.summary[k] for k in ('state','parameters','flops','components','restored_share','evaluations')},indent=1)); 
    for v in run.summary['first_verdicts']: print('first',v['state'],v['message'])
    for v in run.summary['verdicts']: print('final',v['state'],v['slack'],v['message'])
